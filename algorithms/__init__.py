"""Trainers, and the evaluation of what they trained."""

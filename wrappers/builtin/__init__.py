"""Envs of our own."""

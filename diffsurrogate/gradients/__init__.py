"""Gradient estimators, and checks of their accuracy."""

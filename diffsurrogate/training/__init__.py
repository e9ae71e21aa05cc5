"""The loop around every algorithm."""

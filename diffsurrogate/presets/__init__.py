"""Recipes, the same from Python and the command line."""

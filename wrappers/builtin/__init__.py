"""Built-in envs."""

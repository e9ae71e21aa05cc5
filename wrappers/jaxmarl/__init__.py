"""JaxMARL envs."""

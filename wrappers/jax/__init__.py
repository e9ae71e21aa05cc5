"""Envs that are pure functions of JAX, whose gradients reach torch."""

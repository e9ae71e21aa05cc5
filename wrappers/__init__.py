"""Adapters that make envs of other libraries ours, and the wrapper that learns gradients."""

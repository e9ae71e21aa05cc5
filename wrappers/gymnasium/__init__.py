"""Gymnasium envs, and ours as one."""

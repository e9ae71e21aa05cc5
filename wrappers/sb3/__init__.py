"""Stable-Baselines3 on our envs, and its VecEnvs as ours."""

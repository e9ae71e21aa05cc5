"""PettingZoo and mpe2 envs, and ours as one."""

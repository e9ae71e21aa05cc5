"""The models learned for an env: dynamics, reward and termination."""

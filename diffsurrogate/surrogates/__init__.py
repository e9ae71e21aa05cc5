"""The models learned beside an env."""

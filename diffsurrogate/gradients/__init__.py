"""Which gradient a window carries, and how good it is."""

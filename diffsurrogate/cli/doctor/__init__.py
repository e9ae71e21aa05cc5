"""`diffsurrogate doctor`."""

"""The command line: `diffsurrogate train | evaluate | render | report | check-gradients`."""

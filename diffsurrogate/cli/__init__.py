"""The command line.

`diffsurrogate train | evaluate | render | report | reproduce | check-gradients | doctor | envs`.
"""

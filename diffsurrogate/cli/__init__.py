"""The command line.

`diffsurrogate train | config | evaluate | render | report | reproduce | check-gradients | doctor |
envs`.
"""

"""The error users see: what was given, what is needed, what to do."""


class UsageError(Exception):
    """The input cannot work; the message says what to change.

    The command line prints it on one line and exits with status 2.
    """

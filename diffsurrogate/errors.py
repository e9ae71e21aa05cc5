"""The one error users see: what was given, what is needed, what to do."""


class UsageError(Exception):
    """The input cannot work; the message is the advice.

    The command line prints it as one line and exits with status 2.
    """

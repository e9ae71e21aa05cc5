"""The error users see: what was given, what is needed, what to do."""

import difflib
from collections.abc import Iterable


class UsageError(ValueError):
    """The input cannot work; the message says what to change.

    The command line prints it on one line and exits with status 2.
    """


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return the end of a message about an unknown word: the nearest known one, if one is near."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""

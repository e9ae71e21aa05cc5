"""Reading arguments by tyro; imports nothing that takes long, as the top level's help needs it."""

import io
import shlex
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import tyro

from diffsurrogate.errors import UsageError

HELP_ALL = "--help-all"


def wants_help(arguments: Sequence[str]) -> bool:
    """Return whether help is asked for."""
    return bool({"-h", "--help", HELP_ALL} & set(arguments))


def started_as() -> str:
    """Return how the command line was started, for commands to be copied."""
    file = Path(sys.argv[0])
    if (file.parent.name, file.name) == ("diffsurrogate", "__main__.py"):
        return "python -m diffsurrogate"
    own = file.suffix == ".py" and file.name != "__main__.py"
    return f"python {shlex.quote(str(file))}" if own else "diffsurrogate"


def split_extra(arguments: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    """Return what stands before the first `--` and what stands after it."""
    before = list(arguments)
    if "--" not in before:
        return before, ()
    at = before.index("--")
    return before[:at], tuple(before[at + 1 :])


def parse(kind: Any, **options: Any) -> Any:
    """Return what `tyro.cli` does, which reports every ValueError as a value it cannot read.

    Raises:
        UsageError: a class of options has refused its values.
    """
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            return tyro.cli(kind, **options)
    except SystemExit as stop:
        error: BaseException | None = stop
        while error is not None:
            error = error.__context__
            if isinstance(error, UsageError):
                said = io.StringIO()
                raise error from None
        raise
    finally:
        sys.stderr.write(said.getvalue())

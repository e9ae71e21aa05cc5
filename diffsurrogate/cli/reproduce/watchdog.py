"""The command line on a leash: it stops as by Ctrl-C once whoever started it is gone.

`python -m diffsurrogate.cli.reproduce.watchdog ARGUMENTS` is `diffsurrogate ARGUMENTS`, for a
parent that has the other end of its standard input: that end closes however the parent dies, even
by SIGKILL.
"""

import os
import signal
import sys
import threading


def main() -> int:
    """Run the command line; return its exit status."""
    threading.Thread(target=_watch, daemon=True).start()
    try:
        from diffsurrogate.__main__ import main as command  # the import takes seconds

        return command(sys.argv[1:])
    except KeyboardInterrupt:
        return 130


def _watch() -> None:
    """Wait for the end of standard input, where nothing is ever written."""
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGINT)


if __name__ == "__main__":
    sys.exit(main())

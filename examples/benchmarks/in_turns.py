"""Trainers in processes of their own that take turns, so that a busy machine slows all alike.

A part of other scripts, which serve a trainer if started with `--serve`.
"""

import json
import os
import subprocess


class Trainer:
    """A trainer in a process of its own, with one thread."""

    def __init__(self, python: str, script: str, *served: str) -> None:
        """Start `script --serve …` by a Python interpreter."""
        self.process = subprocess.Popen(
            [python, "-P", script, "--serve", *served],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )

    def turn(self) -> dict[str, float]:
        """Let it make an update; return what it tells of it, a line of JSON."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith("{"):  # libraries may print too
                found: dict[str, float] = json.loads(line)
                return found
        raise SystemExit(f"a trainer ended with status {self.process.wait()}")

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.communicate()

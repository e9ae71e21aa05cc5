"""Every benchmark can be started: it is imported, and its command line read."""

import runpy
import sys
from pathlib import Path

import pytest

pytest.importorskip("stable_baselines3")
pytest.importorskip("vmas")
SCRIPTS = sorted((Path(__file__).parent.parent / "examples" / "benchmarks").glob("*.py"))
WITHOUT_COMMAND_LINE = {"forked_runs.py", "gradient_interference.py", "in_turns.py", "scripted.py"}
"""Parts of other scripts."""


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_benchmark_starts(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    if script.name in WITHOUT_COMMAND_LINE:
        runpy.run_path(str(script), run_name="__main__")
        return
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    assert ended.value.code == 0
    assert "--help" in capsys.readouterr().out

"""One training iteration stays easy to follow: few files, hardly any that call each other."""

import re
from pathlib import Path

import pytest

pytest.importorskip("vmas")
from call_graph import USUAL, both_ways, files_in, made, recorded_calls, summary

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def calls() -> dict[tuple[str, str], int]:
    return recorded_calls(made(*USUAL))


def test_an_iteration_of_shac_plus_plus_runs_through_few_files(calls):
    assert len(files_in(calls)) <= 34
    assert len(both_ways(calls)) <= 2
    assert calls["algorithms/shac.py", "wrappers/learned.py"] > 0  # the recording sees something


def test_the_walk_through_a_training_step_quotes_the_call_graph(calls):
    """Its first line, and a walk of few files that are all there."""
    page = (ROOT / "docs" / "training_step.md").read_text()
    assert f"\n> {summary(calls)}\n" in page
    files = re.findall(r"^\| \d+ \|.*\]\(\.\./([^)]*)\) \|$", page, re.MULTILINE)
    assert 8 <= len(files) <= 12
    assert set(files) <= set(files_in(calls)) | {"diffsurrogate/training/trainer.py"}

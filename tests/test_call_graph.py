"""One training iteration stays easy to follow: few files, hardly any that call each other."""

import pytest

pytest.importorskip("vmas")
from call_graph import USUAL, both_ways, files_in, made, recorded_calls


def test_an_iteration_of_shac_plus_plus_runs_through_few_files():
    calls = recorded_calls(made(USUAL))
    assert len(files_in(calls)) <= 26
    assert len(both_ways(calls)) <= 2
    assert calls["algorithms/shac.py", "wrappers/learned.py"] > 0  # the recording sees something

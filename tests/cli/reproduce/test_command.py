"""`reproduce table1`: the grid of the paper's Table 1, and stops and kills of it."""

import csv
import json
import os
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from toys.grid_runs import GRID, SMALL, TABLE, fake, small_grid, small_steps
from toys.processes import needs_ray, run_here, wait_for_updates
from toys.trainers import what_differs

from diffsurrogate.__main__ import main
from diffsurrogate.cli.reproduce.pool import RayPool
from diffsurrogate.training.checkpoint import load_checkpoint
from diffsurrogate.training.lock import FolderInUse, FolderLock

UPDATES = 12


def without_times(content: Any) -> Any:
    """Leave out what the clock says."""
    if isinstance(content, dict):
        return {k: without_times(v) for k, v in content.items() if "cpu_seconds" not in k}
    return [without_times(v) for v in content] if isinstance(content, list) else content


def table(out: Path) -> Any:
    return without_times(json.loads((out / "table1.json").read_text()))


@needs_ray
def test_a_killed_grid_goes_on_to_the_same_table(tmp_path, monkeypatch, capsys):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for seed in ("1", "2"):  # a run of the grid is a plain training
        run = str(whole / "default" / f"dispersion-1-shac++-mlp-{seed}")
        command = ["train", "shac++", "paper/dispersion", "--agents", "1", "--seed", seed]
        command += ["--total-steps", small_steps(UPDATES), "--stop-at", "None", "--no-progress"]
        assert main([*command, "--out", run, *SMALL]) == 0
    assert main(small_grid(whole, "--report-only", updates=UPDATES)) == 0
    command = [sys.executable, "-m", "diffsurrogate", *small_grid(killed, updates=UPDATES)]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=log)
    first, second = (killed / "default" / f"dispersion-1-shac++-mlp-{seed}" for seed in (1, 2))
    wait_for_updates(first, 2, process)
    process.kill()
    process.wait(60)
    assert not (first / "summary.json").exists()
    assert not second.exists()
    capsys.readouterr()
    monkeypatch.setattr(RayPool, "run", run_here)
    assert main(small_grid(killed, updates=UPDATES)) == 0  # once the run that was left has stopped
    assert "1 interrupted, 1 new" in capsys.readouterr().out
    assert table(killed) == table(whole)
    last = first.relative_to(killed) / "checkpoints" / "last.pt"
    assert not what_differs(*(load_checkpoint(out / last)["agent"] for out in (whole, killed)))
    assert table(whole)["cells"][0]["finished"] == [1, 2]
    rows = []
    for out in (whole, killed):
        with (out / "default" / first.name / "metrics.csv").open() as stream:
            rows.append([float(row["cpu_seconds"]) for row in csv.DictReader(stream)])
    assert all(len(cpu) == UPDATES + 1 and cpu == sorted(cpu) and cpu[0] == 0 for cpu in rows)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_runs_to_prolong_are_not_finished_when_a_signal_comes_first(
    number, status, tmp_path, monkeypatch, capsys
):
    def run(pool, *_):
        pool.signal = number

    monkeypatch.setattr(RayPool, "run", run)
    fake(tmp_path, "ppo", 1, 0.5)
    command = [*GRID, "--methods", "ppo", "--seeds", "1", "--total-steps", "101"]
    assert main([*command, "--out", str(tmp_path)]) == status
    assert "stopped with 0 of 1 runs finished" in capsys.readouterr().out


@needs_ray
def test_a_failed_run_is_told_of_and_the_others_go_on(tmp_path, monkeypatch, capsys):
    def run(pool, calls, started, ended, say):
        for call in calls:
            call.arguments[2].write_text("all went well\nuntil it did not\n")
            started()
            ended(call, 2)

    monkeypatch.setattr(RayPool, "run", run)
    fake(tmp_path, "ppo", 1, 0.5)
    command = [*GRID, "--methods", "ppo", "--total-steps", "100", "--out", str(tmp_path)]
    assert main([*command, "--seeds", "1", "2", "3"]) == 1
    text = capsys.readouterr().out
    assert "3 runs in" in text
    assert "1 finished, 2 new" in text
    assert "failed (status 2): ppo dispersion 1 mlp seed 2" in text
    assert "  until it did not" in text
    assert "2 of 3 runs failed; try them again with:" in text
    assert "1 of 3 runs finished" in (tmp_path / "table1.md").read_text()
    assert main([*command, "--seeds", "1"]) == 0  # nothing is left to do
    (tmp_path / "table1.md").unlink()
    (tmp_path / "table1.md").mkdir()  # which no file can replace, as on a full disk
    assert main([*command, "--seeds", "1", "2"]) == 2
    told = capsys.readouterr()
    assert "table1.md cannot be written" in told.err
    assert "make room there, then repeat the command (train with --resume)" in told.err
    assert "  until it did not" in told.out


def test_without_ray_no_folder_is_made(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    out = tmp_path / "grid"
    assert main([*GRID, "--methods", "ppo", "--out", str(out)]) == 2
    assert 'pip install "diffsurrogate[ray]"' in capsys.readouterr().err
    assert not out.exists()


# --- what is trained --------------------------------------------------------------------------


def listing(capsys, *arguments: str) -> str:
    assert main([*TABLE, "--dry-run", *arguments]) == 0
    return capsys.readouterr().out


def test_a_dry_run_lists_the_runs_and_what_is_left_out(tmp_path, capsys):
    out = tmp_path / "grid"
    few = ["--tasks", "dispersion", "sampling", "--agents", "1", "3"]
    text = listing(capsys, *few, "--out", str(out))
    # 2 tasks x (1 agent: mlp; 3: both networks) x 5 methods, less shac on one task; 3 seeds
    assert "81 runs, 81 new" in text
    assert "no gradient" in text
    assert "dispersion-1-shac-mlp" in text
    assert "sampling-1-mappo-transformer" in text
    assert not out.exists()
    narrow = ["--tasks", "transport", "--agents"]
    of_paper = ["10", "--preset", "paper", "--seeds", "7", "--methods", "mappo", "shac", "shac+"]
    paper = listing(capsys, *narrow, *of_paper)
    assert "the paper has no such method: transport-10-mappo-mlp" in paper
    assert "paper/transport-10-shac+-transformer-7" in paper
    others = listing(capsys, *narrow, "3", "--methods", "ippo", "sb3-ppo", "--seeds", "7")
    assert "2 runs, 2 new" in others
    assert "see only themselves" in others


BAD = {
    "nothing left": (["--methods", "shac", "--tasks", "discovery"], "nothing is left"),
    "seed": (["--seeds", "-1"], "at least 0"),
    "no agents": (["--agents", "0"], "at least 1"),
    "no seeds": (["--seeds"], "--seeds is empty"),
    "jobs": (["--jobs", "0"], "jobs is 0"),
    "reserved": (["--", "--seed", "3"], "--seed before --"),
    "reserved too": (["--", "--stop_at=3"], "--stop-at before --"),
    "idle": (["--methods", "ppo", "--", "--shac.horizon", "4"], "ppo has no option --shac.horizon"),
    "horizon": (["--methods", "ppo", "--", "--ppo.horizon", "0"], "at least 1"),
}
BAD_BPTA = {
    "task": (["--tasks", "climbin"], "bpta has no task climbin; known: climbing"),
    "variant": (["--variants", "rare"], "bpta has no variant rare; known: raw"),
    "network": (["--networks", "shared"], "nothing is left"),
    "preset": (["--preset", "paper"], "nothing is left"),
}


@pytest.mark.parametrize(
    ("table", "arguments", "advice"),
    [(GRID, *row) for row in BAD.values()]
    + [(["reproduce", "bpta"], *row) for row in BAD_BPTA.values()],
    ids=[*BAD, *BAD_BPTA],
)
def test_bad_input_gets_advice(table, arguments, advice, tmp_path, capsys):
    assert main([*table, "--out", str(tmp_path / "grid"), *arguments]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert advice in message
    assert not list(tmp_path.glob("grid/*/*"))


def test_another_configuration_in_the_folder_is_refused_but_a_larger_budget_is_not(
    tmp_path, capsys
):
    out = tmp_path / "grid"
    fake(out, "ppo", 3, 1.0)
    command = [*GRID, "--methods", "ppo", "--seeds", "3", "--out", str(out)]
    same = ["--total-steps", "100"]
    for options, state in {
        (*same,): "finished",
        ("--total-steps", "99"): None,
        ("--total-steps", "101"): "to prolong",
        (*same, "--cpu-limit", "5"): None,
        (*same, "--", "--num-envs", "7"): None,
        (*same, "--", "--film-steps", "7"): "finished",
    }.items():
        status = main([*command, "--dry-run", *options])
        told = capsys.readouterr()
        if state is None:
            assert status == 2
            assert "dispersion-1-ppo-mlp-3 has" in told.err
            assert "another --out" in told.err
        else:
            assert status == 0
            assert f"1 runs, 1 {state}" in told.out


def test_the_lock_of_a_dead_process_is_no_obstacle(tmp_path):
    (tmp_path / ".lock").write_text("999999999")
    with (
        closing(FolderLock(tmp_path, "reproduce")),
        pytest.raises(FolderInUse, match=f"process {os.getpid()}"),
    ):
        FolderLock(tmp_path, "reproduce")

"""`reproduce table1`: the grid of the paper's Table 1, its table, and stops and kills of it."""

import csv
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from diffsurrogate.__main__ import main
from diffsurrogate.checkpoint import load_checkpoint
from diffsurrogate.cli.children import Children, locked
from diffsurrogate.cli.options import TrainOptions
from diffsurrogate.cli.paper_table import Cell
from diffsurrogate.cli.presets import recommended
from diffsurrogate.cli.table_shacpp import published
from diffsurrogate.errors import UsageError

TABLE = ["reproduce", "table1"]
GRID = [*TABLE, "--tasks", "dispersion", "--agents", "1", "--networks", "mlp"]
SMALL = [
    *("--num-envs", "5", "--eval-envs", "3", "--eval-steps", "5", "--eval-every", "4"),
    *("--checkpoint-every", "1", "--film-steps", "0"),
]
SHAC = [
    *("--shac.horizon", "4", "--shac.critic-updates", "2", "--shac.critic-batch-size", "16"),
    *("--surrogates.minibatches", "2", "--surrogates.batch-size", "16"),
]
STEPS = 5 * 4 * 40  # 40 updates
TINY = ["--methods", "shac++", "--seeds", "1", "2", "--total-steps", str(STEPS), "--jobs", "1"]
EXTRA = ["--", *SMALL, *SHAC]


def tiny(out: Path, *options: str) -> list[str]:
    return [*GRID, *TINY, "--out", str(out), *options, *EXTRA]


def without_times(content: Any) -> Any:
    """Leave out what the clock says."""
    if isinstance(content, dict):
        return {k: without_times(v) for k, v in content.items() if "cpu_seconds" not in k}
    return [without_times(v) for v in content] if isinstance(content, list) else content


def table(out: Path) -> Any:
    return without_times(json.loads((out / "table1.json").read_text()))


def start(arguments: list[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as stream:
        return subprocess.Popen(
            [sys.executable, "-m", "diffsurrogate", *arguments],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=stream,
            stderr=subprocess.STDOUT,
        )


def wait_for(file: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while not file.exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_killed_grid_goes_on_to_the_same_table(tmp_path, capsys):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for seed in ("1", "2"):  # a run of the grid is a plain training
        run = str(whole / "default" / f"dispersion-1-shac++-mlp-{seed}")
        command = ["train", "shac++", "paper/dispersion", "--agents", "1", "--seed", seed]
        command += ["--total-steps", str(STEPS), "--stop-at", "None", "--no-progress"]
        assert main([*command, "--out", run, *SMALL, *SHAC]) == 0
    assert main(tiny(whole, "--report-only")) == 0
    process = start(tiny(killed), tmp_path / "log")
    first, second = (killed / "default" / f"dispersion-1-shac++-mlp-{seed}" for seed in (1, 2))
    wait_for(first / "checkpoints" / "last.pt", process)
    process.kill()
    process.wait(60)
    assert not (first / "summary.json").exists()
    assert not second.exists()
    capsys.readouterr()
    assert main(tiny(killed)) == 0  # once the run that was left has stopped
    assert "1 interrupted, 1 new" in capsys.readouterr().out
    assert table(killed) == table(whole)
    assert table(whole)["cells"][0]["finished"] == [1, 2]
    rows = []
    for out in (whole, killed):
        with (out / "default" / first.name / "metrics.csv").open() as stream:
            rows.append([float(row["cpu_seconds"]) for row in csv.DictReader(stream)])
    assert all(len(cpu) == 41 and cpu == sorted(cpu) and cpu[0] == 0 for cpu in rows)


def test_ctrl_c_stops_all_runs_with_whole_checkpoints(tmp_path, capsys):
    out, refusals = tmp_path / "grid", []
    run = out / "default" / "dispersion-1-shac++-mlp-1"

    def interrupt() -> None:
        deadline = time.monotonic() + 120
        while not (run / "checkpoints" / "last.pt").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        try:
            with locked(out):
                pass
        except UsageError as error:
            refusals.append(str(error))
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=interrupt)
    thread.start()
    assert main(tiny(out)) == 130
    thread.join()
    assert signal.getsignal(signal.SIGINT) is before
    assert f"another reproduce (process {os.getpid()})" in refusals[0]
    assert not (run / "summary.json").exists()
    assert load_checkpoint(run / "checkpoints" / "last.pt")["agent"]["update"] > 0
    assert "stopped; continue with" in run.with_name(f"{run.name}.log").read_text()
    said = capsys.readouterr().out
    assert "0 of 2 runs finished; go on with:\n  diffsurrogate reproduce table1 --tasks" in said
    advice = shlex.split(said.splitlines()[-1])[1:]
    assert main([*advice[:2], "--dry-run", *advice[2:]]) == 0
    assert "1 interrupted, 1 new" in capsys.readouterr().out


def test_a_failed_run_is_told_of_and_the_others_go_on(tmp_path, monkeypatch, capsys):
    def run(children, jobs, started, ended):
        for job in jobs:
            job.log.write_text("all went well\nuntil it did not\n")
            started()
            ended(job, 2)

    monkeypatch.setattr(Children, "run", run)
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


@pytest.mark.slow
def test_a_grid_of_twelve_cells_killed_twice_goes_on_to_the_same_table(tmp_path):
    cells = ["--agents", "1", "--methods", "ppo", "mappo", "shac++", "--seeds", "1"]

    def command(out: Path) -> list[str]:
        steps = ["--total-steps", str(5 * 32 * 12)]
        return [*TABLE, *cells, *steps, "--jobs", "2", "--out", str(out), "--", *SMALL]

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert main(command(whole)) == 0
    for count, number in ((2, signal.SIGTERM), (7, signal.SIGKILL)):
        process = start(command(broken), tmp_path / "log")
        while len(list(broken.glob("default/*/summary.json"))) < count:
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(number)
        assert process.wait(60) == (143 if number == signal.SIGTERM else -number)
    assert main(command(broken)) == 0
    assert table(broken) == table(whole)
    assert len(table(whole)["cells"]) == 12


# --- what is trained --------------------------------------------------------------------------


def listing(capsys, *arguments: str) -> str:
    assert main([*TABLE, "--dry-run", *arguments]) == 0
    return capsys.readouterr().out


def test_a_dry_run_lists_the_runs_and_what_is_left_out(tmp_path, capsys):
    out = tmp_path / "grid"
    text = listing(capsys, "--out", str(out))
    # 4 tasks x (1 agent: mlp; 3 and 5: both) x 5 methods, less shac on two tasks; 3 seeds
    assert "270 runs, 270 new" in text
    assert "no gradient" in text
    assert "dispersion-1-shac-mlp" in text
    assert "sampling-1-mappo-transformer" in text
    assert not out.exists()
    paper = listing(capsys, "--preset", "paper", "--agents", "3", "10", "--seeds", "7")
    assert "the paper has no such method: dispersion-3-mappo-mlp" in paper
    assert "paper/discovery-10-shac+-transformer-7" in paper
    others = listing(capsys, "--methods", "ippo", "sb3-ppo", "--agents", "3", "--seeds", "7")
    assert "8 runs, 8 new" in others
    assert "see only themselves" in others


BAD = {
    "nothing left": (["--methods", "shac", "--tasks", "discovery"], "nothing is left"),
    "seed": (["--seeds", "-1"], "at least 0"),
    "no agents": (["--agents", "0"], "at least 1"),
    "no seeds": (["--seeds"], "--seeds is empty"),
    "jobs": (["--jobs", "0"], "jobs is 0"),
    "reserved": (["--", "--seed", "3"], "--seed before --"),
    "reserved too": (["--", "--stop_at=3"], "--stop-at before --"),
    "idle": (["--methods", "ppo", "--", "--shac.horizon", "4"], "ppo does not read --shac"),
    "horizon": (["--methods", "ppo", "--", "--ppo.horizon", "0"], "at least 1"),
}


@pytest.mark.parametrize(("arguments", "advice"), list(BAD.values()), ids=list(BAD))
def test_bad_input_gets_advice(arguments, advice, tmp_path, capsys):
    assert main([*GRID, "--out", str(tmp_path / "grid"), *arguments]) == 2
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
        before = [] if "--" not in options else list(options[options.index("--") :])
        given = list(options[: len(options) - len(before)])
        status = main([*command, *given, "--dry-run", *before])
        told = capsys.readouterr()
        if state is None:
            assert status == 2
            assert "dispersion-1-ppo-mlp-3 has" in told.err
            assert "another --out" in told.err
        else:
            assert status == 0
            assert f"1 runs, 1 {state}" in told.out


# --- the table --------------------------------------------------------------------------------


def fake(
    out: Path, method: str, seed: int, value: float, *, done: bool = True, **options: Any
) -> None:
    """Leave what a run on Dispersion 1 leaves that came to `value`."""
    asked = TrainOptions(method=method, env="paper/dispersion", agents=1, seed=seed)
    asked = replace(recommended(asked), total_steps=100, stop_at=None, **options)
    run = out / "default" / f"dispersion-1-{method}-mlp-{seed}"
    run.mkdir(parents=True)
    (run / "config.json").write_text(json.dumps(asked.to_json()))
    row = {"env_steps": 0.0, "cpu_seconds": 0.0, "evaluation_normalised_return": 0.0}
    later = {"env_steps": 100 * seed, "cpu_seconds": 2 * seed}
    later |= {"evaluation_normalised_return": value}
    with (run / "metrics.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, ["update", *row])
        writer.writeheader()
        writer.writerows([{"update": 0} | row, {"update": 1} | later])
    summary = {"normalised_return": value, "env_steps": 100, "cpu_seconds": 10.0 * seed}
    summary |= {"wall_seconds": 1.0, "stopped": "all steps taken"}
    summary["best_policy"] = {"normalised_return": value + 0.05}
    if done:
        (run / "summary.json").write_text(json.dumps(summary))


def report(out: Path, *options: str) -> tuple[str, dict[str, dict[str, Any]]]:
    command = [*GRID, "--methods", "ppo", "shac++", "--seeds", "1", "2", "3"]
    assert main([*command, "--out", str(out), "--report-only", *options]) == 0
    cells = json.loads((out / "table1.json").read_text())["cells"]
    return (out / "table1.md").read_text(), {cell["method"]: cell for cell in cells}


def test_the_table_by_hand(tmp_path):
    for seed, (ppo, shac) in enumerate([(0.2, 0.7), (0.4, 0.8), (0.3, 0.9)], 1):
        fake(tmp_path, "ppo", seed, ppo)
        fake(tmp_path, "shac++", seed, shac)
    ceilings = tmp_path / "ceilings.json"
    known = [(0.1, False), (0.5, False), (0.6, True)]
    task = {"task": "dispersion", "agents": 1}
    rows = [task | {"normalised_return": x, "full_knowledge": full} for x, full in known]
    ceilings.write_text(json.dumps({"rows": rows}))
    text, cells = report(tmp_path, "--ceilings", str(ceilings))
    ppo, shac = cells["ppo"], cells["shac++"]
    assert (ppo["mean"], shac["mean"]) == (pytest.approx(0.3), pytest.approx(0.8))
    assert (ppo["by_row"], shac["by_row"]) == (pytest.approx(0.3 / 0.8), 1.0)
    assert (ppo["paper"], shac["paper"]) == (1.0, 1.0)
    assert (ppo["kept"], shac["kept"]) == (pytest.approx(0.35), pytest.approx(0.85))
    assert 0.19 < ppo["low"] < 0.3 < ppo["high"] < 0.41
    assert (ppo["reached"], ppo["steps_to_reach"]) == (0, None)
    assert shac["goal"] == ppo["goal"] == pytest.approx(0.9 * 0.8)  # of the best cell
    assert (shac["reached"], shac["steps_to_reach"], shac["cpu_seconds_to_reach"]) == (2, 250, 5)
    assert shac["runs"]["3"]["curve"] == {
        "env_steps": [0, 300],
        "cpu_seconds": [0.0, 6.0],
        "normalised_return": [0.0, 0.9],
    }
    assert shac["cpu_seconds"] == 60
    assert (ppo["finished"], ppo["missing"]) == ([1, 2, 3], [])
    assert "| dispersion | 1 | 0.30 | 0.80 |" in text
    assert "| dispersion | 1 | 0.38 (1.00) | 1.00 (1.00) |" in text
    assert "| 0.50 of 0.60 | 0.38 | 1.00 | 0.72 | 0/3 | – | – | 20.0 | 3 all steps taken |" in text
    assert "†" not in text[text.index("## Return") :]
    for name in ("table1.png", "curves-steps.png", "curves-cpu.png"):
        assert (tmp_path / name).stat().st_size > 1000


def test_the_goal_is_of_what_a_script_attains_by_observations_where_no_cell_is_better(tmp_path):
    for seed in (1, 2, 3):
        fake(tmp_path, "ppo", seed, 0.2 * seed)
    ceilings = tmp_path / "ceilings.json"
    task = {"task": "dispersion", "agents": 1}
    for value, full, goal in ((0.6, False, 0.54), (1.7, False, 0.9), (0.6, True, 0.36)):
        row = task | {"normalised_return": value, "full_knowledge": full}
        ceilings.write_text(json.dumps({"rows": [row]}))
        _, cells = report(tmp_path, "--ceilings", str(ceilings))
        assert cells["ppo"]["goal"] == pytest.approx(goal)


def test_unfinished_cells_are_marked_and_never_averaged_in_silence(tmp_path):
    fake(tmp_path, "ppo", 1, 0.2)
    fake(tmp_path, "ppo", 2, 0.9, done=False)
    fake(tmp_path, "shac", 4, 1.0, num_envs=4)  # not asked for, but it is there
    fake(tmp_path, "shac", 5, 1.0, num_envs=5)
    broken = tmp_path / "default" / "dispersion-1-ppo-mlp-9"
    broken.mkdir()
    (broken / "config.json").write_text("{}")
    text, cells = report(tmp_path)
    assert cells["ppo"]["mean"] == 0.2
    assert (cells["ppo"]["low"], cells["ppo"]["missing"]) == (None, [2, 3])
    assert (cells["shac++"]["mean"], cells["shac++"]["missing"]) == (None, [1, 2, 3])
    assert cells["shac"]["finished"] == [4, 5]
    assert "3 of 8 runs finished" in text
    assert "| dispersion | 1 | 0.20† | 1.00 | … |" in text
    assert "| dispersion | 1 | 0.20† (1.00) | 1.00† | … (1.00) |" in text
    assert "dispersion-1-shac-mlp mixes configurations, seeds 4 and 5: num_envs 4 and 5" in text
    assert "dispersion-1-ppo-mlp-9 cannot be read" in text


def test_bad_ceilings_get_advice(tmp_path, capsys):
    file = tmp_path / "ceilings.json"
    file.write_text('{"rows": [{"task": "dispersion"}]}')
    command = [*GRID, "--report-only", "--out", str(tmp_path), "--ceilings", str(file)]
    assert main(command) == 2
    assert "ceilings.py" in capsys.readouterr().err


def test_the_papers_figures():
    def figure(task, agents, method, network):
        return published(Cell(task=task, agents=agents, method=method, network=network))

    assert figure("transport", 3, "shac++", "mlp") == 0.41
    assert figure("discovery", 5, "shac+", "transformer") == 0.61
    assert figure("sampling", 5, "ppo", "transformer") == 0.43
    assert figure("sampling", 1, "shac", "mlp") == 0.58
    assert figure("dispersion", 3, "shac", "mlp") is None
    assert figure("dispersion", 20, "shac++", "mlp") is None
    assert figure("dispersion", 3, "mappo", "mlp") is None


def test_the_lock_of_a_dead_process_is_no_obstacle(tmp_path):
    (tmp_path / ".lock").write_text("999999999")
    with (
        locked(tmp_path),
        pytest.raises(UsageError, match=f"process {os.getpid()}"),
        locked(tmp_path),
    ):
        pass

"""What `reproduce table1` reports of runs: figures worked out by hand."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from toys.grid_runs import GRID, TABLE, fake

from diffsurrogate.__main__ import main
from diffsurrogate.actor_critic.diversity import policy_diversity
from diffsurrogate.cli.reproduce.shacpp import published
from diffsurrogate.cli.reproduce.table import Cell
from diffsurrogate.trained_policy import load_policy
from diffsurrogate.training.run_folder import RunFolder


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
    assert "| dispersion | 1 | 0.30 (3/3) | 0.80 (3/3) |" in text
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


def test_there_is_no_goal_where_nothing_above_0_is_known(tmp_path):
    for seed in (1, 2, 3):
        fake(tmp_path, "ppo", seed, 0.0)
    text, cells = report(tmp_path)
    assert (cells["ppo"]["goal"], cells["ppo"]["reached"]) == (None, 0)
    assert "| – | 1.00 | – | – | – | – | 20.0 | 3 all steps taken |" in text


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
    assert "| dispersion | 1 | 0.20 (1/3) | 1.00 (2/2) | not run |" in text
    assert "| dispersion | 1 | 0.20† (1.00) | 1.00† | not run (1.00) |" in text
    assert "dispersion-1-shac-mlp mixes configurations, seeds 4 and 5: num_envs 4 and 5" in text
    assert "dispersion-1-ppo-mlp-9 cannot be read" in text


def test_every_cell_has_a_figure_with_its_seeds_or_tells_why_there_is_none(tmp_path):
    fake(tmp_path, "ppo", 42, 0.2)
    fake(tmp_path, "mappo", 42, 0.9, done=False)
    fake(tmp_path, "shac++", 42, 0.8)
    assert main([*TABLE, "--out", str(tmp_path), "--report-only"]) == 0
    text = (tmp_path / "table1.md").read_text()
    returns = text[text.index("## Return") : text.index("## By the paper's")]
    rows = [line.strip("| ").split(" | ") for line in returns.splitlines() if line[:1] == "|"][2:]
    assert len(rows) == 12
    cells = [cell for row in rows for cell in row[2:]]
    counts = {cell: cells.count(cell) for cell in cells}
    assert counts == {
        "0.20 (1/3)": 1,
        "0.80 (1/3)": 1,
        "unfinished": 1,
        "– [1]": 12,  # SHAC on Dispersion and Discovery, with either network
        "– [2]": 4 * 5 - 2,  # the Transformer of a single agent, which SHAC has no gradient for
        "not run": 120 - 33,
    }
    assert "- [1] its reward counts, and a count has no gradient" in returns
    assert "- [2] there is nobody to attend to" in returns
    assert "| dispersion | 3 | not run (0.22) |" in text


@pytest.mark.parametrize(("there", "advice"), [(False, "there is no grid"), (True, "is a file")])
def test_a_report_of_nothing_gets_advice(tmp_path, capsys, there, advice):
    out = tmp_path / "nowhere"
    if there:
        out.write_text("")
    assert main([*GRID, *([] if there else ["--report-only"]), "--out", str(out)]) == 2
    assert advice in capsys.readouterr().err
    assert not out.is_dir()


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


def test_policies_of_a_row_are_compared_on_the_same_states(tmp_path):
    """States of both runs, an equal number of each; where agents see each other there is none."""
    row = ["--tasks", "sampling", "--agents", "3", "--networks", "mlp"]
    runs = {}
    for method, seed in (("mappo", 1), ("mappo", 2), ("ppo", 1)):
        run = tmp_path / "default" / f"sampling-3-{method}-mlp-{seed}"
        command = ["train", method, "paper/sampling", "--agents", "3", "--seed", str(seed)]
        command += ["--out", str(run), "--num-envs", "4", "--total-steps", "128"]
        command += [
            "--film-steps",
            "0",
            "--eval-envs",
            "2",
            "--eval-steps",
            str(10 * seed),
            "--stop-at",
            "None",
        ]
        assert main(command) == 0
        runs[method, seed] = run
    first, second = (RunFolder(runs["mappo", seed]).seen() for seed in (1, 2))
    assert (first.shape, second.shape) == ((20, 3, first.shape[-1]), (40, 3, first.shape[-1]))
    assert RunFolder(runs["ppo", 1]).seen() is None
    states = torch.cat([first, second[::2]])
    policies = [load_policy(runs["mappo", seed], which="last").actor for seed in (1, 2)]
    command = [*TABLE, *row, "--methods", "ppo", "mappo", "--seeds", "1", "2"]
    assert main([*command, "--out", str(tmp_path), "--report-only"]) == 0
    cells = {c["method"]: c for c in json.loads((tmp_path / "table1.json").read_text())["cells"]}
    for name, distance in (("diversity", "jensen-shannon"), ("wasserstein", "wasserstein")):
        values = [policy_diversity(policy, states, distance=distance) for policy in policies]
        assert cells["mappo"][name] == pytest.approx(sum(values) / 2)
        assert cells["ppo"][name] is None
    assert "| diversity | Wasserstein |" in (tmp_path / "table1.md").read_text()

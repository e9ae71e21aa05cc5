"""A small grid to train, and what runs of one leave behind, made by hand."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from diffsurrogate.cli.options import TrainOptions

TABLE = ["reproduce", "table1"]
GRID = [*TABLE, "--tasks", "dispersion", "--agents", "1", "--networks", "mlp"]
SMALL = [
    *("--num-envs", "5", "--eval-envs", "3", "--eval-steps", "5", "--eval-every", "4"),
    *("--checkpoint-every", "1", "--film-steps", "0"),
    *("--shac.horizon", "4", "--shac.value.minibatches", "2", "--shac.value.batch-size", "16"),
    *("--surrogates.fit.minibatches", "2", "--surrogates.fit.batch-size", "16"),
]


def small_steps(updates: int) -> str:
    return str(5 * 4 * updates)


def small_grid(out: Path, *options: str, updates: int) -> list[str]:
    """Return the command of two runs of SHAC++, seeds 1 and 2, one at a time."""
    runs = ["--methods", "shac++", "--seeds", "1", "2", "--total-steps", small_steps(updates)]
    return [*GRID, *runs, "--jobs", "1", "--out", str(out), *options, "--", *SMALL]


def fake(
    out: Path, method: str, seed: int, value: float, *, done: bool = True, **options: Any
) -> None:
    """Leave what a run on Dispersion 1 leaves that came to `value`."""
    asked = TrainOptions.recommended(method, "paper/dispersion", agents=1)
    asked = replace(asked, seed=seed, total_steps=100, stop_at=None, **options)
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

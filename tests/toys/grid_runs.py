"""What runs of a grid leave behind, made by hand."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from diffsurrogate.cli.options import TrainOptions

TABLE = ["reproduce", "table1"]
GRID = [*TABLE, "--tasks", "dispersion", "--agents", "1", "--networks", "mlp"]


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

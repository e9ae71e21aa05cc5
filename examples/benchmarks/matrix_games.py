"""Who finds the best joint choice of the climbing and the penalty game (BPPO, figure 4 and 13)?

    python examples/benchmarks/matrix_games.py                     # about 20 CPU-minutes
    python examples/benchmarks/matrix_games.py --seeds 0 1 --methods mappo bppo

Settings are the paper's (tables 3 and 4) but for smaller windows, 2,000 plays instead of 10,000.
A run ends after 80 of them, or before that once sampled choices earn 95 % of the best payoff. Then
the most probable choices are played. Writes examples/results/matrix_games.json and .md; runs that
are in the first already are not repeated, so that the same command goes on where it was stopped.
"""

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from diffsurrogate import PPOConfig, evaluate, make, recommended
from diffsurrogate.presets.recipe import Method, Recipe
from diffsurrogate.training.metrics import Metrics
from diffsurrogate.training.run_folder import write_rows
from diffsurrogate.training.trainer import Trainer

RESULTS = Path(__file__).parent.parent / "results"
GAMES = ("climbing", "penalty")
PLAYS, UPDATES = 2000, 80
Row = dict[str, Any]

METHODS: dict[str, tuple[Method, Row, Row]] = {
    "mappo": ("mappo", {}, {}),
    "happo": ("happo", {}, {}),
    "armappo, raw actions": ("armappo", {"conditioning": "raw"}, {}),
    "armappo, projection": ("armappo", {}, {}),
    "bppo, raw actions": ("bppo", {"conditioning": "raw"}, {}),
    "bppo, projection": ("bppo", {}, {}),
    "bppo, projection, simultaneous": ("bppo", {}, {"scheme": "simultaneous"}),
    "bppo, projection, no feedback (c = 0)": ("bppo", {}, {"use_peer_gradient": False}),
}
"""Method of the command line, what is changed of its actor, and of its configuration."""
HEAD = """\
# Who finds the best joint choice?

The climbing and the penalty game of BPPO's paper (AAAI 2024), by
`python examples/benchmarks/matrix_games.py`. Payoffs are of one agent; at best 11 and 10. Updates
are the median of those runs that ended before the 80th, of 2,000 plays each."""
PARTIAL = "Not all runs are made yet; the same command goes on."
READING = """\
The autoregressive policies whose networks see the earlier action through a projection find the best
joint choice; those that get it raw end where independent agents do. Feedback makes no visible
difference on these games: without it (c = 0), and for ARMAPPO, which has neither M nor c, the
outcome is the same. So what the paper's figure 4 credits to BPPO is the projection's here."""


def configured(name: str, game: str) -> Recipe:
    """Return what is recommended, with the changes."""
    method, actor, changes = METHODS[name]
    recipe = recommended(method, f"games/{game}")
    assert isinstance(recipe.config, PPOConfig)
    policy = replace(recipe.config.actor, **actor)
    config = replace(recipe.config, horizon=1, actor=policy, **changes)
    return replace(recipe, run=replace(recipe.run, num_envs=PLAYS), config=config)


def run(name: str, game: str, seed: int) -> Row:
    """Train and play once."""
    agent, env = configured(name, game).make(seed=seed)
    env.reset(seed=seed)
    best_return = env.max_return()
    assert best_return is not None
    best = float(best_return[0]) / env.num_agents
    began = time.process_time()

    def goes_on(agent: Trainer, metrics: Metrics) -> bool:
        return metrics["reward"] < 0.95 * best

    agent.learn(PLAYS * UPDATES, callback=goes_on)
    seconds = time.process_time() - began
    played = evaluate(agent.predict, make(f"games/{game}", num_envs=1)).mean_return / env.num_agents
    return {
        "game": game,
        "method": name,
        "seed": seed,
        "payoff": round(played, 3),
        "best": best,
        "updates": agent.iteration,
        "cpu_seconds": round(seconds, 2),
    }


def runs(games: list[str], methods: list[str], seeds: list[int], known: list[Row]) -> Iterator[Row]:
    """Run everything that is not known yet, one after another."""
    have = {(row["method"], row["game"], row["seed"]) for row in known}
    for seed in seeds:
        for game in games:
            for name in methods:
                if (name, game, seed) not in have:
                    yield run(name, game, seed)


def table(rows: list[Row]) -> str:
    """Return the rows as Markdown, one line per game and method."""
    lines = [
        "| game | method | best found | payoffs (runs) | updates | CPU-s, median |",
        "|---|---|---|---|---|---|",
    ]
    for game in GAMES:
        for name in METHODS:
            some = [r for r in rows if (r["game"], r["method"]) == (game, name)]
            if not some:
                continue
            payoffs = sorted((r["payoff"] for r in some), reverse=True)
            counts = ", ".join(f"{p:g} ({payoffs.count(p)})" for p in dict.fromkeys(payoffs))
            found = sum(r["payoff"] == r["best"] for r in some)
            early = [r["updates"] for r in some if r["updates"] < UPDATES]
            iterations = f"{median(early):g}" if early else f"{UPDATES}"
            seconds = median(r["cpu_seconds"] for r in some)
            cells = (game, name, f"{found} of {len(some)}", counts, iterations, f"{seconds:.1f}")
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--games", nargs="*", default=list(GAMES), choices=GAMES)
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--seeds", nargs="*", type=int, default=list(range(10)))
    parser.add_argument("--out", type=Path, default=RESULTS / "matrix_games.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[Row] = []
    if arguments.out.exists():
        rows = json.loads(arguments.out.read_text())
    for row in runs(arguments.games, arguments.methods, arguments.seeds, list(rows)):
        rows.append(row)
        print(*row.values(), flush=True)
        write_rows(arguments.out, rows)
    whole = len(rows) == 10 * len(GAMES) * len(METHODS)
    text = f"{HEAD}\n\n{table(rows)}\n\n{READING if whole else PARTIAL}\n"
    arguments.out.with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()

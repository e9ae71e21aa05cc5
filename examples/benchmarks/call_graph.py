"""Which files one training iteration runs through, and which pairs of files call both ways.

    python examples/benchmarks/call_graph.py
    python examples/benchmarks/call_graph.py ppo gymnasium/CartPole-v1

Trains two iterations of the recommended recipe (by default SHAC++ on the paper's Dispersion with
three agents) and records every call of the second between files of this package.
"""

import argparse
import sys
from collections import defaultdict
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any, get_args

import torch

import diffsurrogate.wrappers
from diffsurrogate.presets.recipe import Method
from diffsurrogate.presets.recommend import recommended
from diffsurrogate.training.trainer import Trainer

USUAL: tuple[Method, str, int] = ("shac++", "paper/dispersion", 3)
"""Method, env and number of agents."""
DECORATORS = "diffsurrogate/envs/modes.py"
"""Wraps methods: a call goes through it to the method itself."""
CHECKOUT = Path(diffsurrogate.wrappers.__file__).parent.parent


def recorded_calls(agent: Trainer) -> dict[tuple[str, str], int]:
    """Return how often each file called another one of ours in one iteration."""
    calls: dict[tuple[str, str], int] = defaultdict(int)

    def watch(frame: FrameType, event: str, argument: Any) -> None:
        if event != "call":
            return
        callee, above = ours(frame), frame.f_back
        if callee is None:
            return
        while above is not None and ours(above) is None:  # through torch and the standard library
            above = above.f_back
        caller = None if above is None else ours(above)
        if caller is not None and caller != callee:
            calls[caller, callee] += 1

    sys.setprofile(watch)
    try:
        agent.iterate()
    finally:
        sys.setprofile(None)
    return dict(calls)


def ours(frame: FrameType) -> str | None:
    """Return the file of a frame, relative to the checkout, if it is one of the package."""
    return _of_package(frame.f_code.co_filename)


@cache
def _of_package(file: str) -> str | None:
    path = Path(file)
    if not path.is_relative_to(CHECKOUT):
        return None
    name = path.relative_to(CHECKOUT).as_posix()
    if name == DECORATORS:
        return None
    return name if name.startswith(("diffsurrogate/", "wrappers/", "algorithms/")) else None


def files_in(calls: dict[tuple[str, str], int]) -> list[str]:
    """Return the files that called or were called, those of most calls first."""
    weight: dict[str, int] = defaultdict(int)
    for pair, count in calls.items():
        for file in pair:
            weight[file] += count
    return sorted(weight, key=lambda file: -weight[file])


def both_ways(calls: dict[tuple[str, str], int]) -> list[tuple[str, str]]:
    """Return the pairs of files that called each other."""
    return sorted((one, other) for one, other in calls if one < other and (other, one) in calls)


def summary(calls: dict[tuple[str, str], int]) -> str:
    """Return how many files and pairs of files there are, in a line."""
    files, pairs = files_in(calls), both_ways(calls)
    return f"{len(files)} files, {len(calls)} pairs of caller and callee, {len(pairs)} both ways"


def made(method: Method, env: str, agents: int | None = None) -> Trainer:
    """Return a trainer after its first iteration."""
    torch.set_num_threads(1)
    recipe = recommended(method, env, agents)
    run = replace(recipe.run, num_envs=min(8, recipe.run.num_envs))
    agent, _ = replace(recipe, run=run).make(seed=0)
    for _ in agent.iterations(1):
        pass
    return agent


def main() -> None:
    """Print the files, the pairs and the calls."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("method", nargs="?", choices=get_args(Method))
    parser.add_argument("env", nargs="?", default=USUAL[1])
    parser.add_argument("agents", nargs="?", type=int)
    asked = parser.parse_args()
    recipe = USUAL if asked.method is None else (asked.method, asked.env, asked.agents)
    calls = recorded_calls(made(*recipe))
    files, pairs = files_in(calls), both_ways(calls)
    print(summary(calls))
    print("\n".join(files))
    for one, other in pairs:
        print(f"both ways: {one} ({calls[one, other]}) {other} ({calls[other, one]})")


if __name__ == "__main__":
    main()

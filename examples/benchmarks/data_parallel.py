"""Time of an update by two processes with half of the envs each, beside one process with all.

    python examples/benchmarks/data_parallel.py
    python examples/benchmarks/data_parallel.py --cases "shac++ paper/dispersion 3" --times 1

All train with the recommended settings, or with `--times` as many envs and as large minibatches, on
one thread each. One process and two take turns, so that a busy machine slows both; ratios are the
median over rounds, with the quartiles of the first. That of the wall-clock needs two idle cores.
That of the CPU-seconds of an update, of one process over the busier of the two, is what two cores
would come to if ranks never waited. `exchanged` is the share of the two's time in which rank 0
exchanges tensors or waits. Prints a table, and writes it into examples/results/data_parallel.json.
"""

import argparse
import itertools
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, cast

import torch
from torch import distributed, multiprocessing

from diffsurrogate import distributed as ranks
from diffsurrogate.algorithms.policy_updates import HybridUpdateConfig
from diffsurrogate.algorithms.ppo import PPOConfig
from diffsurrogate.algorithms.shac import SHACConfig
from diffsurrogate.presets.recipe import Method, Recipe
from diffsurrogate.presets.recommend import recommended
from diffsurrogate.training.run_folder import write_rows

RESULTS = Path(__file__).parent.parent / "results" / "data_parallel.json"
CASES = ["shac++ paper/dispersion 3", "mappo paper/transport 3", "ppo mujoco/HalfCheetah-v5"]
"""Method, env and number of agents."""


def work(case: str, times: int, rank: int, world: int, group: Path, pipe: Connection) -> None:
    """Train as many updates as asked for, each time; answer with seconds: in all, CPU, waited."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if world > 1:
        distributed.init_process_group(
            "gloo", init_method=f"file://{group}", rank=rank, world_size=world
        )
    waited = watch_collectives()
    method, env, *agents = case.split()
    recipe = recommended(cast(Method, method), env, int(agents[0]) if agents else None)
    agent, _ = larger(recipe, times).make(seed=0)
    iterations = agent.iterations(10**6)
    while (updates := pipe.recv()) > 0:
        waited[0], start, cpu = 0.0, time.perf_counter(), time.process_time()
        for _ in range(updates):
            next(iterations)
        pipe.send((time.perf_counter() - start, time.process_time() - cpu, waited[0]))


def larger(recipe: Recipe, times: int) -> Recipe:
    """Return a recipe with that many times the envs, in minibatches as many times as large."""

    def grown(part: Any) -> Any:
        return replace(part, batch_size=times * part.batch_size)

    run, config, models = recipe.run, recipe.config, recipe.surrogates
    if isinstance(config, SHACConfig):
        config = replace(config, value=grown(config.value))
        if isinstance(config.update, HybridUpdateConfig):
            config = replace(config, update=replace(config.update, ppo=grown(config.update.ppo)))
    else:
        assert isinstance(config, PPOConfig)
        config = replace(config, clip=grown(config.clip))
    if models is not None:
        models = replace(models, fit=grown(models.fit))
    run = replace(run, num_envs=times * run.num_envs)
    return replace(recipe, run=run, config=config, surrogates=models)


def watch_collectives() -> list[float]:
    """Return a place in which the seconds of collectives add up."""
    seconds, call = [0.0], ranks._together

    def timed(collective: Callable[..., Any], *args: Any) -> None:
        start = time.perf_counter()
        call(collective, *args)
        seconds[0] += time.perf_counter() - start

    ranks._together = timed
    return seconds


class Team:
    """Processes that train together, when they are asked to."""

    def __init__(self, case: str, times: int, world: int, folder: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipes, self.processes = [], []
        for rank in range(world):
            ours, theirs = context.Pipe()
            arguments = (case, times, rank, world, folder / f"group{world}", theirs)
            self.processes.append(context.Process(target=work, args=arguments, daemon=True))
            self.pipes.append(ours)
            self.processes[-1].start()

    def train(self, updates: int) -> tuple[float, float, float]:
        """Return seconds per update: in all, CPU-seconds of the busier rank, and those waited."""
        for pipe in self.pipes:
            pipe.send(updates)
        seconds, cpu, waited = zip(*[pipe.recv() for pipe in self.pipes], strict=True)
        return seconds[0] / updates, max(cpu) / updates, waited[0] / updates

    def end(self) -> None:
        """Let all go home."""
        for pipe, process in zip(self.pipes, self.processes, strict=True):
            pipe.send(0)
            process.join()


def measure(case: str, times: int, updates: int, rounds: int) -> dict[str, Any]:
    """Return a row of the table."""
    with tempfile.TemporaryDirectory() as folder:
        teams = [Team(case, times, world, Path(folder)) for world in (1, 2)]
        for team in teams:
            team.train(3)  # the first updates compile, and fill buffers
        taken = [[team.train(updates) for team in teams] for _ in range(rounds)]
        for team in teams:
            team.end()
    one, two = ([pair[place][0] for pair in taken] for place in (0, 1))
    low, ratio, high = statistics.quantiles([a / b for a, b in zip(one, two, strict=True)], n=4)
    of_cpu = statistics.median(pair[0][1] / pair[1][1] for pair in taken)
    exchanged = statistics.median(pair[1][2] / pair[1][0] for pair in taken)
    return {
        "case": case,
        "times": times,
        "one process, s": round(statistics.median(one), 4),
        "two processes, s": round(statistics.median(two), 4),
        "times as fast": round(ratio, 2),
        "quartiles": [round(low, 2), round(high, 2)],
        "by CPU-seconds": round(of_cpu, 2),
        "exchanged": round(exchanged, 2),
    }


NAMES = (
    *("case", "times", "one process, s", "two processes, s", "times as fast", "quartiles"),
    *("by CPU-seconds", "exchanged"),
)


def main() -> None:
    """Read the command line, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--cases", nargs="+", default=CASES)
    parser.add_argument("--times", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--updates", type=int, default=1, help="of each turn")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    print(f"| {' | '.join(NAMES)} |\n|{'---|' * len(NAMES)}", flush=True)
    rows = []
    for case, times in itertools.product(asked.cases, asked.times):
        rows.append(measure(case, times, asked.updates, asked.rounds))
        print(f"| {' | '.join(str(rows[-1][name]) for name in NAMES)} |", flush=True)
    command = f"data_parallel.py --updates {asked.updates} --rounds {asked.rounds}"
    write_rows(asked.out, {"command": command, "rows": rows})


if __name__ == "__main__":
    main()

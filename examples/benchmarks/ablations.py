"""Train what is left out or put differently, and see what it costs.

    python examples/benchmarks/ablations.py                         # all, several CPU-hours
    python examples/benchmarks/ablations.py --groups noise policy   # some
    python examples/benchmarks/ablations.py --list                  # the trainings, as commands

Every row is a training by `diffsurrogate train`'s options, three seeds each, that ends at a
normalised return of .95 or after the task's budget of CPU-seconds. Finished runs stand in the JSON
file and are not repeated; the Markdown beside it is written again after each run.
"""

import argparse
import json
import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from diffsurrogate import MultiAgentVectorEnv, evaluate, recommended
from diffsurrogate.cli.arguments import read_train
from diffsurrogate.cli.build import evaluation_env
from diffsurrogate.cli.options import FINAL_SEED, TrainOptions
from diffsurrogate.cli.reproduce.pool import Call, RayPool
from diffsurrogate.training.evaluate import EVALUATION_SEED
from diffsurrogate.training.run_folder import write_rows
from diffsurrogate.training.trainer import Trainer

RESULTS = Path(__file__).parent.parent / "results"
GOAL = 0.95

TASKS = {
    "dispersion 1": (("paper/dispersion", "--agents", "1"), 30),
    "dispersion 3": (("paper/dispersion", "--agents", "3"), 60),
    "transport 1": (("paper/transport", "--agents", "1"), 90),
    "transport 3": (("paper/transport", "--agents", "3"), 150),
    "discovery 1": (("paper/discovery", "--agents", "1"), 45),
    "sampling 3": (("paper/sampling", "--agents", "3"), 60),
}
"""Env, agents, and the CPU-seconds a run may take."""

PLAIN_STEP = "--surrogates.dynamics.net joint --surrogates.dynamics.num-frequencies 0"
UNDAMPED = "--surrogates.dynamics.no-attenuate"
OF_STATE = "--surrogates.reward.inputs s,a"
UNLIMITED = "--surrogates.adjoint-clip None"
EARLIER = f"{PLAIN_STEP} {UNDAMPED} {OF_STATE} {UNLIMITED}"
"""The models that the preset had when most rows were trained."""

PATHWISE = " ".join(
    [
        EARLIER,
        "--shac.update gradient --shac.update.lr 3e-3 --shac.noise.kind ou",
        "--shac.update.gradient.action-penalty-weight 1 --shac.update.gradient.lam None",
        "--shac.update.gradient.segment-length None --shac.update.gradient.minibatches 1",
        "--shac.value.expectile 0.5 --shac.value.expectile-one-signed None",
        "--shac.value.capacity 20000 --shac.value.bins 9",
        "--shac.value.minibatches 8 --shac.value.batch-size 512 --shac.ema-decay 0",
    ]
)
"""The pathwise gradient alone, with the package's defaults (`SHACConfig`)."""
PATHWISE_AWM = f"{PATHWISE.removeprefix(f'{PLAIN_STEP} {UNDAMPED}')} --surrogates.dynamics awm"
"""The same with the action world model."""

OWN = "--shac.actor.net separate"
POLICIES = {
    "shared Transformer": "--network transformer",
    "shared MLP": "--network shared",
    "shared MLP with identities": "--network shared-id",
    "linear hypernetwork": "--network hyper-linear",
    "MLP hypernetwork": "--network hyper-mlp",
    "one network for all agents together": "",
    "a network of each agent's own": OWN,
    "own networks, autoregressive": f"{OWN} --shac.actor.order listed",
    "own networks, autoregressive, random order": f"{OWN} --shac.actor.order random",
}


@dataclass(frozen=True)
class Row:
    """What is trained, but for the seed."""

    group: str
    task: str
    name: str
    options: str = ""
    """Of `diffsurrogate train`, after those of the task."""
    warm_steps: int = 0
    """Env steps of PPO on the wrapped env before, which the models learn from."""
    method: str = "shac++"
    longer: int = 0
    """CPU-seconds besides the task's own."""

    @property
    def budget(self) -> int:
        """CPU-seconds that a run may take."""
        return TASKS[self.task][1] + self.longer

    @property
    def arguments(self) -> list[str]:
        """What follows `diffsurrogate train`."""
        return [self.method, *TASKS[self.task][0], *shlex.split(self.options)]

    @property
    def key(self) -> str:
        """Of the row in the file of results."""
        return f"{self.group} | {self.task} | {self.name}"


def rows() -> Iterator[Row]:
    """Yield all rows, group by group; the first of a group and task is the default."""
    yield from default_rows()
    yield from pathwise_rows()
    yield from earlier_rows()
    yield from policy_rows()


def pathwise_rows() -> Iterator[Row]:
    """Yield what is made differently where the pathwise gradient is alone."""
    alone = "estimator, pathwise gradient alone"
    for model in ("step", "awm"):
        start = PATHWISE if model == "step" else PATHWISE_AWM
        for anchor in ("real", "predicted"):
            for loop in ("closed", "open"):
                chosen = f"--surrogates.anchor {anchor} --surrogates.loop {loop}"
                name = f"{model}, {anchor} states, {loop} loop"
                yield Row(alone, "dispersion 1", name, f"{start} {chosen}")
    awm = f"{PATHWISE_AWM} --surrogates.loop open"
    for name, chosen in {
        "change, normalised, feed-forward 128, 8 minibatches": "",
        "absolute": "--surrogates.dynamics.predict absolute",
        "not normalised": "--surrogates.dynamics.no-normalise",
        "feed-forward 512": "--surrogates.dynamics.feedforward 512",
        "2 minibatches": "--surrogates.fit.minibatches 2",
        "32 minibatches": "--surrogates.fit.minibatches 32",
    }.items():
        yield Row(
            "action world model, pathwise gradient alone", "dispersion 1", name, f"{awm} {chosen}"
        )
    for name, chosen in {
        "from (s, a), linear, half of it balanced over bins": "",
        "uniform cache": "--surrogates.fit.reward-balance 0",
        "wholly balanced cache": "--surrogates.fit.reward-balance 1",
        "from (s, a, s')": "--surrogates.reward.inputs s,a,s'",
        "from (s, a, change)": "--surrogates.reward.inputs s,a,change",
        "bounded by the rewards seen": "--surrogates.reward.range bounded",
    }.items():
        options = f"{PATHWISE} {shlex.join(chosen.split())}"
        yield Row("reward model, pathwise gradient alone", "dispersion 1", name, options)
    for name, chosen in {
        "penalty on actions, of samples": "",
        "penalty, of means": "--shac.update.gradient.action-penalty-on means",
        "neither": "--shac.update.gradient.action-penalty-weight 0",
        "squash": "--shac.update.gradient.action-penalty-weight 0 --shac.actor.squash",
        "white noise": "--shac.noise.kind white",
    }.items():
        yield Row(
            "box and noise, pathwise gradient alone", "dispersion 1", name, f"{PATHWISE} {chosen}"
        )


def default_rows() -> Iterator[Row]:
    """Yield what is left out of the default recipe."""
    for task in ("transport 3", "discovery 1"):
        longer = 75 if task == "discovery 1" else 0
        for name, chosen in {
            "default": "",
            "no pathwise gradient": "--shac.update.weight 0",
            "reward from (s, a)": OF_STATE,
            "one network for all agents, no Fourier features, as the step model": PLAIN_STEP,
            "no gradient attenuation": UNDAMPED,
            "no adjoint clipping": UNLIMITED,
            "segments of 8 steps": "--shac.update.gradient.segment-length 8",
            "all of these five": f"{EARLIER} --shac.update.gradient.segment-length 8",
        }.items():
            yield Row("default recipe", task, name, chosen, longer=longer)


def earlier_rows() -> Iterator[Row]:
    """Yield what is left out of the default recipe as it was before, with plainer models."""
    group = "earlier recipe"
    for task in ("dispersion 3", "transport 1", "discovery 1"):
        for name, chosen in {
            "all of it": "",
            "no pathwise gradient": "--shac.update.weight 0",
            "pathwise weight 1": "--shac.update.weight 1",
            "pathwise gradient alone": PATHWISE,
            "no expectile": "--shac.value.expectile 0.5 --shac.value.expectile-one-signed None",
            "expectile .8 throughout": "--shac.value.expectile-one-signed None",
            "pathwise gradient of whole windows": "--shac.update.gradient.minibatches 1",
            "critic of the current window": "--shac.value.capacity 0",
            "learned standard deviation": "--shac.actor.learn-std",
            "no observation normalisation": "--shac.actor.no-normalise-obs "
            "--shac.critic.no-normalise-obs",
            "models warmed up by PPO": "",
        }.items():
            pieces = (
                ""
                if "whole" in name or "alone" in name
                else "--shac.update.gradient.segment-length 8"
            )
            models = "" if chosen == PATHWISE else EARLIER
            warm = 200_000 if "warmed" in name else 0
            yield Row(group, task, name, f"{models} {pieces} {chosen}", warm_steps=warm)


def policy_rows() -> Iterator[Row]:
    """Yield the earlier recipe with other networks of the policy."""
    models = {
        "shac++": f"{EARLIER} --shac.update.gradient.segment-length 8",
        "shac+": OF_STATE,
        "shac": "",
    }
    for method, (task, what) in {
        "shac++": ("dispersion 3", "all learned"),
        "shac+": ("dispersion 3", "learned reward"),
        "shac": ("sampling 3", "true gradients"),  # Dispersion counts: its reward has none
    }.items():
        for name, chosen in POLICIES.items():
            options = f"{models[method]} {chosen}"
            yield Row(f"policy, {what} ({method})", task, name, options, method=method, longer=90)


def train(row: Row, seed: int) -> dict[str, Any]:
    """Train a row with a seed; return what it came to."""
    torch.set_num_threads(1)
    options = options_of(row, seed)
    agent, env = options.make()
    began = time.process_time()
    if row.warm_steps:
        warm_up = recommended("ppo", options.env, options.agents, options.network)
        warm_up.make_agent(env, seed=seed).learn(row.warm_steps)
    warm = time.process_time() - began
    judge = evaluation_env(options, options.eval_envs)
    cpu, history, limit = warm, [], row.budget
    for metrics in agent.iterations(options.total_steps // agent.steps_per_iteration):
        cpu += metrics["update_cpu_seconds"]
        if agent.iteration % 20 and cpu < limit:
            continue
        reached = reached_by(agent, judge, EVALUATION_SEED)
        history.append([row.warm_steps + agent.env_steps, round(cpu, 2), round(reached, 4)])
        if reached >= GOAL or cpu >= limit:
            break
    final = reached_by(agent, judge, FINAL_SEED)
    first = next((line for line in history if line[2] >= 0.9), None)
    return {
        "seed": seed,
        "return": round(final, 4),
        "cpu_seconds": round(cpu, 1),
        "env_steps": row.warm_steps + agent.env_steps,
        "ms_per_update": round(1000 * (cpu - warm) / agent.iteration),
        "reached": first,
        "history": history,
    }


def reached_by(agent: Trainer, judge: MultiAgentVectorEnv, seed: int) -> float:
    """Return the normalised return of a policy; all tasks know the largest."""
    reached = evaluate(agent.predict, judge, seed=seed).normalised_return
    assert reached is not None
    return reached


def options_of(row: Row, seed: int) -> TrainOptions:
    """Return the options of a training."""
    return read_train([*row.arguments, "--seed", str(seed)])


def table(found: dict[str, list[dict[str, Any]]]) -> str:
    """Return the page: a table for each group and task, of rows that have results."""
    lines, heading = [HEAD], ("", "")
    for row in rows():
        runs = found.get(row.key, [])
        if not runs:
            continue
        if (row.group, row.task) != heading:
            heading = (row.group, row.task)
            lines += [f"\n## {row.group}: {row.task}, {row.budget} CPU-seconds\n", COLUMNS]
        ends = [run["return"] for run in runs]
        reached = [run["reached"] for run in runs if run["reached"]]
        slow = f"{median(line[1] for line in reached):.0f}" if reached else "–"
        steps = f"{median(line[0] for line in reached) / 1e6:.2f}" if reached else "–"
        each = " / ".join(f"{end:.2f}" for end in ends)
        update = f"{median(run['ms_per_update'] for run in runs):.0f}"
        lines.append(
            f"| {row.name} | {median(ends):.2f} | {each} | {len(reached)} of {len(runs)} | {slow} "
            f"| {steps} | {update} |"
        )
    return "\n".join(lines) + "\n"


HEAD = """# What SHAC++ is made of, piece by piece

Return over the true maximum, deterministic policy, 512 new episodes. A run ends at .95 or after
the CPU-seconds named (one thread). Runs had others beside them, those of the earlier recipe up to
four per core: compare the rows of a seed, and M steps. The first row of each table is what the
others change in what they name. (Of policies, that is one network for all agents together.) All
tables but those of the default recipe are of plainer models: rewards from (s, a), one network for
all agents and no Fourier features as the step model, neither gradient attenuation nor adjoint
clipping, and, but for the pathwise gradient alone, segments of 8 steps.
"CPU-s" and "M steps" to .9 are medians over the runs that got there.

Made by `python examples/benchmarks/ablations.py`."""
COLUMNS = """| | median | seeds | reached .9 | CPU-s | M steps | ms per update |
|---|---|---|---|---|---|---|"""


def main() -> None:
    """Run what is missing and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--groups", nargs="*", help="only groups whose name holds one of these")
    parser.add_argument("--tasks", nargs="*", help="only these, such as 'dispersion 1'")
    parser.add_argument("--names", nargs="*", help="only rows whose name holds one of these")
    parser.add_argument("--seeds", nargs="*", type=int, default=[42, 43, 44])
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument("--ray-address", help="HOST:PORT of a running Ray cluster")
    parser.add_argument("--out", type=Path, default=RESULTS / "ablations", help="without suffix")
    parser.add_argument("--list", action="store_true", help="show the commands, run nothing")
    asked = parser.parse_args()
    file, page = asked.out.with_suffix(".json"), asked.out.with_suffix(".md")
    found = json.loads(file.read_text()) if file.is_file() else {}
    chosen = [
        (row, seed)
        for seed in asked.seeds
        for row in rows()
        if (not asked.groups or any(word in row.group for word in asked.groups))
        and (not asked.tasks or row.task in asked.tasks)
        and (not asked.names or any(word in row.name for word in asked.names))
        and all(run["seed"] != seed for run in found.get(row.key, []))
    ]
    for row, seed in chosen:
        options_of(row, seed)  # refuses a wrong option before hours have gone by
    if asked.list:
        for row, seed in chosen:
            print("diffsurrogate train", shlex.join([*row.arguments, "--seed", str(seed)]))
        return
    failed: list[str] = []
    pool = RayPool(asked.jobs, asked.ray_address)

    def ended(call: Call, result: dict[str, Any] | Exception) -> None:
        if isinstance(result, Exception):  # the others go on
            if not pool.signal:
                failed.append(f"{call.name}: {type(result).__name__}: {result}")
            return
        key = call.arguments[0].key
        found[key] = sorted([*found.get(key, []), result], key=lambda run: run["seed"])
        write_rows(file, found)
        page.write_text(table(found))
        print(f"{call.name}: {result['return']:.3f}", flush=True)

    calls = [
        Call(name=f"{row.key}, seed {seed}", function=train, arguments=(row, seed))
        for row, seed in chosen
    ]
    pool.run(calls, lambda: None, ended)
    if failed or pool.signal:
        raise SystemExit("\n".join(failed) or f"stopped by signal {pool.signal}")


if __name__ == "__main__":
    main()

"""SHAC++ and IPPO on envs whose agents have opposed interests, played against each other.

    python examples/benchmarks/opposed.py                                # about 15 CPU-minutes
    python examples/benchmarks/opposed.py --envs vmas/simple_tag --seeds 0

Each method trains all agents of an env at once, each with weights of its own that follow its own
return (`PathwiseConfig.credit`). Then one side of the one method plays the other side of the other:
returns depend on the opponent, so that only those against the same opponent can be compared. A
return is of an episode, the mean over a side's agents, in 256 episodes.
"""

import itertools
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor

from diffsurrogate import IPPO, SHAC, LearnedDiffWrapper, SHACConfig, make
from diffsurrogate.envs.env import MultiAgentVectorEnv
from diffsurrogate.nets.config import SeparateNetConfig
from diffsurrogate.training.run_folder import write_rows, write_text
from diffsurrogate.training.trainer import Trainer

RESULTS = Path(__file__).parent.parent / "results"
METHODS = ("shac++", "ippo")


@dataclass(frozen=True)
class Task:
    """An env, and the names of one side's agents begin with `side`; the others are against them."""

    side: str
    options: dict[str, Any] = field(default_factory=dict)


TASKS = {
    "vmas/simple_tag": Task("adversary", {"max_steps": 100}),
    "mpe2/simple_adversary_v3": Task("adversary", {"continuous_actions": True}),
}


def trained(name: str, method: str, seed: int, steps: int) -> Trainer:
    """Train all agents."""
    env = make(name, num_envs=64, seed=seed, **TASKS[name].options)
    if method == "ippo":
        return IPPO(env, seed=seed).learn(steps)
    wrapped = LearnedDiffWrapper(env, seed=seed)
    config = SHACConfig.suited_to(wrapped)
    config = replace(config, actor=replace(config.actor, net=SeparateNetConfig()))
    return SHAC(wrapped, config, seed=seed).learn(steps)


def played(env: MultiAgentVectorEnv, first: Trainer, second: Trainer, side: Tensor) -> Tensor:
    """Return each agent's mean return (agent,): `first` acts for `side` (agent,), `second` else."""
    obs, _ = env.reset(seed=1)
    returns = torch.zeros(env.num_agents)
    steps = env.max_steps
    assert steps is not None
    for _ in range(steps):
        action = torch.where(side[:, None], first.predict(obs), second.predict(obs))
        obs, reward, *_ = env.step(action)
        returns += reward.mean(0)
    return returns


def main(
    envs: tuple[str, ...] = tuple(TASKS),
    seeds: tuple[int, ...] = (0, 1, 2),
    steps: int = 100_000,
    out: Path = RESULTS / "opposed",
) -> None:
    """Train, let them play, and write OUT.json and OUT.md."""
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    lines = [
        "| env | side | against | return of the side | of the others |",
        "|---|---|---|---|---|",
    ]
    for name in envs:
        agents: dict[tuple[str, int], Trainer] = {}
        for method, seed in itertools.product(METHODS, seeds):
            start = time.process_time()
            agents[method, seed] = trained(name, method, seed, steps)
            used = time.process_time() - start
            print(f"{name} {method} seed {seed}: {used:.0f} CPU-s", flush=True)
        judge = make(name, num_envs=256, seed=1, **TASKS[name].options)
        side = torch.tensor([agent.startswith(TASKS[name].side) for agent in judge.agents])
        for first, second in itertools.product(METHODS, repeat=2):
            found = [
                played(judge, agents[first, seed], agents[second, seed], side) for seed in seeds
            ]
            ours = [round(float(one[side].mean()), 3) for one in found]
            theirs = [round(float(one[~side].mean()), 3) for one in found]
            row = {"env": name, "side": first, "against": second}
            rows.append(row | {"returns": ours, "returns_of_others": theirs})
            told = " | ".join(" / ".join(f"{v:g}" for v in values) for values in (ours, theirs))
            lines.append(f"| {name} | {first} | {second} | {told} |")
            print(lines[-1], flush=True)
            write_rows(out.with_suffix(".json"), rows)
    text = "# Opposed agents\n\n"
    text += f"Seeds {', '.join(map(str, seeds))}, {steps:,} steps. The side are the agents called "
    text += '"adversary". Command: `python examples/benchmarks/opposed.py`.\n\n'
    write_text(out.with_suffix(".md"), text + "\n".join(lines) + "\n")


if __name__ == "__main__":
    tyro.cli(main)

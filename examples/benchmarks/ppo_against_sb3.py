"""Train our PPO and Stable-Baselines3's with the same settings on the same envs, and compare.

    python examples/benchmarks/ppo_against_sb3.py                  # about 12 CPU-minutes
    python examples/benchmarks/ppo_against_sb3.py --tasks CartPole-v1 --seeds 0

For each seed they run one after another in one process, on one thread, on raw observations and
rewards. Settings are those of the RL Zoo for Stable-Baselines3, without gSDE and with a constant
clip range. What is left of difference: Stable-Baselines3 clips one gradient norm of policy and
value function together, and draws other initial weights. A third row per task is what
`diffsurrogate train ppo` would do with its defaults. The policy is evaluated without noise on 64
episodes.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch
from stable_baselines3 import PPO as TheirPPO
from torch import Tensor

from diffsurrogate import (
    PPO,
    ActorConfig,
    ClipConfig,
    CriticConfig,
    PPOConfig,
    make,
    recommended,
)
from diffsurrogate import evaluate as evaluate_policy
from diffsurrogate.nets.config import JointNetConfig
from diffsurrogate.training.run_folder import write_rows
from diffsurrogate.wrappers.sb3.export import SB3VecEnv, as_policy

NET = JointNetConfig(hidden=(64, 64), activation="tanh", layer_norm=False)
TITLE = """# Our PPO against Stable-Baselines3's

Made by `python examples/benchmarks/ppo_against_sb3.py`.

"""
RESULTS = Path(__file__).parent.parent / "results"
EPISODES = 64

Row = dict[str, Any]


def config(horizon: int, gamma: float, lam: float, epochs: int, batch: int, **more: Any) -> Row:
    """Return settings by the names of ours."""
    return {
        "horizon": horizon,
        "gamma": gamma,
        "lam": lam,
        "epochs": epochs,
        "batch_size": batch,
        "lr": 1e-3,
        "schedule": "constant",
        "std": 1.0,
        **more,
    }


TASKS: dict[str, tuple[int, int, Row]] = {
    "CartPole-v1": (8, 100_000, config(32, 0.98, 0.8, 20, 256, schedule="linear")),
    "Pendulum-v1": (4, 200_000, config(1024, 0.9, 0.95, 10, 64, std=0.5)),
}
"""Number of envs, env steps, settings.

`std` is in half action boxes, ours; theirs always starts at 1 in the env's units, of which
the scale of Pendulum's is 2.
"""


def train_theirs(task: str, seed: int) -> tuple[Callable[[Tensor], Tensor], int]:
    """Train Stable-Baselines3's PPO; return its policy and the steps it took."""
    envs, steps, c = TASKS[task]
    rate = (lambda left: c["lr"] * left) if c["schedule"] == "linear" else c["lr"]
    vec = SB3VecEnv(make(f"gymnasium/{task}", num_envs=envs, seed=seed))
    model = TheirPPO(
        "MlpPolicy",
        vec,
        learning_rate=rate,
        n_steps=c["horizon"],
        batch_size=c["batch_size"],
        n_epochs=c["epochs"],
        gamma=c["gamma"],
        gae_lambda=c["lam"],
        policy_kwargs={"net_arch": list(NET.hidden)},
        device="cpu",
        seed=seed,
    )
    model.learn(steps)
    return as_policy(model, vec.env), model.num_timesteps


def train_ours(task: str, seed: int) -> tuple[Callable[[Tensor], Tensor], int]:
    """Train our PPO with the same settings."""
    envs, steps, c = TASKS[task]
    settings = PPOConfig(
        horizon=c["horizon"],
        gamma=c["gamma"],
        lam=c["lam"],
        actor=ActorConfig(net=NET, std=c["std"], learn_std=True, normalise_obs=False),
        critic=CriticConfig(net=NET, target_decay=0.0, normalise_obs=False),
        clip=ClipConfig(epochs=c["epochs"], batch_size=c["batch_size"], lr=c["lr"]),
        critic_lr=c["lr"],
        lr_schedule=c["schedule"],
        scale_rewards=False,
        randomise_episode_phase=False,
    )
    agent = PPO(make(f"gymnasium/{task}", num_envs=envs, seed=seed), settings, seed=seed)
    agent.learn(steps)
    return agent.predict, agent.env_steps


def train_default(task: str, seed: int) -> tuple[Callable[[Tensor], Tensor], int]:
    """Train our PPO as the command line does, for as many steps."""
    agent, _ = recommended("ppo", f"gymnasium/{task}").make(seed=seed)
    agent.learn(TASKS[task][1])
    return agent.predict, agent.env_steps


METHODS = {
    "Stable-Baselines3": train_theirs,
    "ours, same settings": train_ours,
    "ours, defaults": train_default,
}


def run(task: str, seed: int, method: str) -> Row:
    """Train and evaluate once."""
    torch.manual_seed(seed)
    began = time.process_time()
    policy, steps = METHODS[method](task, seed)
    seconds = time.process_time() - began
    env = make(f"gymnasium/{task}", num_envs=EPISODES)
    result = evaluate_policy(policy, env, seed=1_000_003)
    return {
        "task": task,
        "method": method,
        "seed": seed,
        "env_steps": steps,
        "cpu_seconds": round(seconds, 1),
        "return": round(result.mean_return, 1),
    }


def runs(tasks: list[str], seeds: list[int], methods: list[str]) -> Iterator[Row]:
    """Train and evaluate all, the methods of a seed one after another."""
    for task in tasks:
        for seed in seeds:
            for method in methods:
                yield run(task, seed, method)


def table(rows: list[Row]) -> str:
    """Return medians over seeds as Markdown."""
    lines = [
        "| task | PPO | seeds | env steps | return, median [least, most] | CPU-s, median |",
        "|---|---|---|---|---|---|",
    ]
    for task, method in dict.fromkeys((row["task"], row["method"]) for row in rows):
        own = [row for row in rows if (row["task"], row["method"]) == (task, method)]
        returns = [row["return"] for row in own]
        lines.append(
            f"| {task} | {method} | {', '.join(str(row['seed']) for row in own)} "
            f"| {own[0]['env_steps']:,} "
            f"| {median(returns):.1f} [{min(returns):.1f}, {max(returns):.1f}] "
            f"| {median(row['cpu_seconds'] for row in own):.1f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run, print the table and write it to examples/results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for row in runs(args.tasks, args.seeds, args.methods):
        print(json.dumps(row), flush=True)
        rows.append(row)
    text = table(rows)
    print(text)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "ppo_against_sb3.md").write_text(TITLE + text)
    settings = {task: {"num_envs": TASKS[task][0], **TASKS[task][2]} for task in args.tasks}
    content = {"settings": settings, "runs": rows}
    write_rows(args.out / "ppo_against_sb3.json", content)


if __name__ == "__main__":
    main()

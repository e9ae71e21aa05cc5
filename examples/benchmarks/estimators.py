"""How well does each learned gradient agree with the simulator's own?

Trains each of the eight combinations of `dynamics`, `anchor` and `loop` for some iterations, then
compares its policy gradient with the true one on fresh windows: the simulator's dynamics, and its
reward where that has a gradient (Dispersion's has none: there the learned reward serves both).

    python examples/benchmarks/estimators.py --iterations 100 --out estimators.json
"""

import itertools
import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
import tyro

from diffsurrogate import SHAC, LearnedDiffWrapper, SHACConfig, SurrogateConfig, make
from diffsurrogate.actor_critic.actor import NoisyPolicy
from diffsurrogate.algorithms.pathwise import PathwiseGradient
from diffsurrogate.surrogates.action_world_model import ActionWorldModelConfig
from diffsurrogate.surrogates.step_model import StepModelConfig
from diffsurrogate.training.run_folder import write_rows

MODELS: dict[str, StepModelConfig | ActionWorldModelConfig] = {
    "step": StepModelConfig(),
    "awm": ActionWorldModelConfig(),
}
ANCHORS: tuple[Literal["real", "predicted"], ...] = ("real", "predicted")
LOOPS: tuple[Literal["closed", "open"], ...] = ("closed", "open")


@dataclass
class Options:
    """What to compare, and on what."""

    envs: tuple[str, ...] = ("paper/dispersion", "vmas/navigation")
    agents: int = 1
    num_envs: int = 64
    iterations: int = 100
    windows: int = 10
    """Fresh windows the cosine is measured on."""
    seed: int = 0
    out: Path | None = None
    """Also write the rows as JSON."""


def measure(env_id: str, config: SurrogateConfig, options: Options) -> dict[str, object]:
    """Train with one estimator and compare its gradient with the true one."""
    simulator = make(
        env_id,
        num_envs=options.num_envs,
        n_agents=options.agents,
        seed=options.seed,
        max_steps=320,
    )
    env = LearnedDiffWrapper(simulator, config=config, seed=options.seed)
    agent = SHAC(env, SHACConfig(), seed=options.seed)
    gradient = agent.policy_update.gradient
    assert isinstance(gradient, PathwiseGradient)
    began = time.process_time()
    *_, metrics = agent.iterations(options.iterations)
    cpu_ms = (time.process_time() - began) / options.iterations * 1e3
    horizon, parameters = agent.config.horizon, list(agent.actor.net.parameters())
    rows = []
    for _ in range(options.windows):
        noise = agent.noise.draw(horizon)

        def policy(noise: torch.Tensor = noise) -> NoisyPolicy:
            return NoisyPolicy(agent.actor, noise)

        env.detach()
        rows.append(env.compare_gradients(policy, horizon, gradient.return_loss, parameters))
        with torch.no_grad():
            env.rollout(policy(), horizon)  # move on to other states
    return {
        "env": env_id,
        "dynamics": "awm" if isinstance(config.dynamics, ActionWorldModelConfig) else "step",
        "anchor": config.anchor,
        "loop": config.loop,
        "cosine": statistics.median(row["gradient_cosine"] for row in rows),
        "norm_ratio": statistics.median(row["gradient_norm_ratio"] for row in rows),
        "reward_error": metrics.get("reward_error"),
        "dynamics_error": metrics.get("dynamics_error"),
        "cpu_ms_per_iteration": cpu_ms,
    }


def main() -> None:
    """Print one row per env and estimator."""
    options = tyro.cli(Options, description=__doc__)
    torch.set_num_threads(1)
    rows = []
    print("| env | dynamics | anchor | loop | cosine | norm ratio | CPU ms / iteration |")
    print("|---|---|---|---|---|---|---|")
    switches = itertools.product(MODELS, ANCHORS, LOOPS)
    for (model, anchor, loop), env_id in itertools.product(list(switches), options.envs):
        config = replace(SurrogateConfig(), dynamics=MODELS[model], anchor=anchor, loop=loop)
        row = measure(env_id, config, options)
        rows.append(row)
        print(
            f"| {env_id} | {model} | {anchor} | {loop} | {row['cosine']:.3f} | "
            f"{row['norm_ratio']:.2f} | {row['cpu_ms_per_iteration']:.0f} |",
            flush=True,
        )
        if options.out is not None:
            write_rows(options.out, rows)


if __name__ == "__main__":
    main()

"""The learned gradient beside the simulator's own while SHAC++ learns to hop, by stiffness.

    python examples/benchmarks/learned_against_true.py               # about 8 CPU-minutes
    python examples/benchmarks/learned_against_true.py --contacts stiff --steps 200000

SHAC++ trains by learned gradients alone. Every 20 updates both gradients of the policy's loss are
computed on two windows of the same states with different noise. A row has, for windows of 4 steps
(as SHAC++ takes) and of 32 (as SHAC does), medians over the training: the cosine between learned
and true gradient; the cosine of each between the two windows, low where the gradient is mostly
noise; and the norms. Learning curves of both: `diffsurrogate reproduce shac --tasks hopper
stiff-hopper --methods ppo shac shac++`.
"""

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
import tyro
from torch import Tensor

from diffsurrogate import SHAC, LearnedDiffWrapper, MultiAgentVectorEnv, make
from diffsurrogate.actor_critic.actor import NoisyPolicy
from diffsurrogate.algorithms.pathwise import PathwiseGradient
from diffsurrogate.gradients.estimator import policy_gradient
from diffsurrogate.training.run_folder import write_rows, write_text

RESULTS = Path(__file__).parent.parent / "results"
CONTACTS: dict[str, dict[str, Any]] = {
    "the robot file's": {},
    "stiff": {"stiffness": 20.0, "rigid": True},
}
HORIZONS = (4, 32)
NUM_ENVS, EVERY = 64, 20


def gradients(agent: SHAC, env: MultiAgentVectorEnv, noises: Sequence[Tensor]) -> list[Tensor]:
    """Return the policy's gradient of windows from the env's state, one for each noise."""
    state, found = env.state(), []
    gradient = agent.policy_update.gradient
    assert isinstance(gradient, PathwiseGradient)
    weights: list[Tensor] = list(agent.actor.parameters())
    for noise in noises:
        env.set_state(state)
        env.detach()
        found.append(
            policy_gradient(
                env, NoisyPolicy(agent.actor, noise), len(noise), gradient.return_loss, weights
            )
        )
    env.set_state(state)
    env.detach()
    return found


def probe(agent: SHAC, env: LearnedDiffWrapper, horizon: int) -> dict[str, float]:
    """Return cosines and norms of both gradients on two windows."""
    shape = (horizon, NUM_ENVS, env.num_agents, env.act_dim)
    generator = torch.Generator().manual_seed(agent.iteration)
    noises = [torch.randn(shape, generator=generator) for _ in range(2)]
    learned = gradients(agent, env, noises)
    inner = env.env
    inner.enable_gradients("dynamics", "reward")
    true = gradients(agent, inner, noises)
    inner.disable_gradients()

    def cosine(one: Tensor, other: Tensor) -> float:
        return float(torch.cosine_similarity(one, other, dim=0))

    return {
        "cosine": (cosine(learned[0], true[0]) + cosine(learned[1], true[1])) / 2,
        "learned with itself": cosine(*learned),
        "true with itself": cosine(*true),
        "learned norm": float(learned[0].norm()),
        "true norm": float(true[0].norm()),
    }


def main(
    contacts: tuple[str, ...] = tuple(CONTACTS),
    steps: int = 400_000,
    seed: int = 0,
    out: Path = RESULTS / "learned_against_true",
) -> None:
    """Train, print a row per contact and horizon, and write OUT.md and OUT.json."""
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    names = ("cosine", "learned with itself", "true with itself", "learned norm", "true norm")
    lines = [f"| contacts | steps | {' | '.join(names)} |", "|---|---|---|---|---|---|---|"]
    for contact in contacts:
        env = make(
            "mjx/hopper", num_envs=NUM_ENVS, seed=seed, differentiable=True, **CONTACTS[contact]
        )
        env.disable_gradients()
        wrapped = LearnedDiffWrapper(env, seed=seed)
        agent = SHAC(wrapped, seed=seed)
        found: dict[int, list[dict[str, float]]] = {horizon: [] for horizon in HORIZONS}

        def look(agent: SHAC, metrics: dict[str, float]) -> None:
            if agent.iteration % EVERY == 0:
                for horizon, probes in found.items():  # noqa: B023 - called in this turn only
                    probes.append(probe(agent, wrapped, horizon))  # noqa: B023

        agent.learn(steps, look)
        for horizon, probes in found.items():
            values = {name: median(one[name] for one in probes) for name in names}
            told = " | ".join(f"{values[name]:.2f}" for name in names)
            lines.append(f"| {contact} | {horizon} | {told} |")
            print(lines[-1], flush=True)
            rows.append({"contacts": contact, "horizon": horizon, "probes": probes})
    text = "# The learned gradient beside the simulator's own, on Hopper\n\n"
    text += f"Seed {seed}, {steps:,} env steps of SHAC++, a look every {EVERY} updates; medians. "
    text += "Command: `python examples/benchmarks/learned_against_true.py`.\n\n"
    write_text(out.with_suffix(".md"), text + "\n".join(lines) + "\n")
    write_rows(out.with_suffix(".json"), rows)


if __name__ == "__main__":
    tyro.cli(main)

"""The loss that SHAC descends along one weight of a policy, by the horizon of its windows.

    python examples/benchmarks/landscape.py                       # about 5 CPU-minutes
    python examples/benchmarks/landscape.py --env diffsurrogate/cartpole-swingup --updates 50

A policy is trained a little; then one of its weights is moved, and for each value the same noise is
played from the same states. Windows of a few steps end in the critic's value, as in SHAC
(arXiv:2204.07137, figure 2); the longest, a whole episode, does not, as in back-propagation through
time. Below: how rough each line is, as the median step between neighbours over the spread of the
line; and how often the simulator's gradient has the sign of the difference of neighbours.
"""

from pathlib import Path
from typing import Any

import matplotlib
import torch
import tyro
from matplotlib import pyplot as plt
from torch import Tensor, nn

from diffsurrogate import SHAC, make, recommended
from diffsurrogate.actor_critic.actor import NoisyPolicy
from diffsurrogate.functional.losses import shac_actor_loss
from diffsurrogate.training.run_folder import write_rows

matplotlib.use("Agg")
RESULTS = Path(__file__).parent.parent / "results"
NUM_ENVS = 64


def loss_of(agent: SHAC, start: dict[str, Any], noise: Tensor, *, value: bool) -> Tensor:
    """Return SHAC's loss of a window from `start`, with or without the value at its end."""
    agent.env.set_state(start)
    agent.env.detach()
    horizon = len(noise)
    policy = NoisyPolicy(agent.actor, noise)
    collect = agent.env.rollout if value else agent.env.collect
    window = collect(policy, horizon)
    following = agent.critic.target(window.next_obs)
    return shac_actor_loss(
        window.reward,
        following if value else torch.zeros_like(following),
        window.terminated,
        window.truncated,
        gamma=agent.value.gamma,
    )


def line(agent: SHAC, moves: Tensor, noise: Tensor, *, value: bool) -> tuple[Tensor, Tensor]:
    """Return losses, and derivatives where there is a value, at each move of the weight."""
    head = agent.actor.net.head
    assert isinstance(head, nn.Linear)
    weight = head.weight
    start, before = agent.env.state(), weight.detach().clone()
    losses, slopes = [], []
    for move in moves.tolist():
        with torch.no_grad():
            weight.copy_(before)
            weight[0, 0] += move
        loss = loss_of(agent, start, noise, value=value)
        losses.append(loss.detach())
        slopes.append(torch.autograd.grad(loss, weight)[0][0, 0] if value else torch.tensor(0.0))
    with torch.no_grad():
        weight.copy_(before)
    agent.env.set_state(start)
    return torch.stack(losses), torch.stack(slopes)


def main(
    env: str = "mjx/hopper",
    updates: int = 100,
    horizons: tuple[int, ...] = (4, 32, 128),
    longest: int = 1000,
    points: int = 41,
    width: float = 1.0,
    seed: int = 0,
    out: Path = RESULTS / "landscape",
) -> None:
    """Train, move the weight and draw OUT.png; the numbers are in OUT.json."""
    torch.set_num_threads(1)
    recipe = recommended("shac", env)
    agent = recipe.make_agent(
        make(env, num_envs=NUM_ENVS, differentiable=True, seed=seed), seed=seed
    )
    assert isinstance(agent, SHAC)
    agent.learn(updates * agent.steps_per_iteration)
    agent.actor.freeze_normaliser(agent.minibatch_rng)
    moves = torch.linspace(-width, width, points)
    figure, axes = plt.subplots(
        1, len(horizons) + 1, figsize=(3 * len(horizons) + 3, 2.8), layout="constrained"
    )
    rows = []
    print("| horizon | roughness | gradients with the sign of the difference |\n|---|---|---|")
    for axis, horizon in zip(axes, (*horizons, longest), strict=True):
        value = horizon != longest
        noise = torch.randn(
            (horizon, NUM_ENVS, agent.env.num_agents, agent.env.act_dim),
            generator=torch.Generator().manual_seed(seed),
        )
        losses, slopes = line(agent, moves, noise, value=value)
        steps = losses.diff()
        rough = float(steps.diff().abs().median() / (losses.max() - losses.min()))
        same = float((((slopes[1:] + slopes[:-1]) * steps) > 0).float().mean())
        print(f"| {horizon} | {rough:.3f} | {f'{same:.2f}' if value else '-'} |", flush=True)
        rows.append({"horizon": horizon, "losses": losses.tolist(), "slopes": slopes.tolist()})
        axis.plot(moves, losses, lw=1)
        axis.set(
            xlabel="move of the weight", title=f"{horizon} steps{'' if value else ', no value'}"
        )
    axes[0].set_ylabel("loss")
    figure.savefig(out.with_suffix(".png"), dpi=110)
    write_rows(out.with_suffix(".json"), rows)


if __name__ == "__main__":
    tyro.cli(main)

"""How far ahead may a learned gradient look? It is compared with the likelihood-ratio gradient.

The likelihood-ratio gradient needs no model of the env, a value function aside (λ = .95), only many
windows. The learned one is of a single window already nearly free of noise; what it has instead is
bias, which grows with the length of the segments it is carried along. Trains SHAC++, then averages
both over many windows of a policy that stands still.

    python examples/benchmarks/pathwise_against_score.py mujoco/HalfCheetah-v5 --total-steps 60000
"""

from dataclasses import dataclass

import torch
import tyro
from torch import Tensor
from torch.nn.functional import cosine_similarity

from diffsurrogate import SHAC, recommended
from diffsurrogate.actor_critic.actor import NoisyPolicy
from diffsurrogate.algorithms.pathwise import PathwiseConfig, PathwiseGradient
from diffsurrogate.data.segments import minibatches
from diffsurrogate.envs.window import Window

LIKELIHOOD_RATIO = "likelihood ratio"


@dataclass
class Options:
    """What to train and compare."""

    env: tyro.conf.Positional[str]
    total_steps: int = 60_000
    """Of the training before."""
    windows: int = 40
    """Averaged over, in two halves: an even number."""
    lengths: tuple[int, ...] = (1, 2, 4, 8, 32)
    """Of the segments that the learned gradient is carried along; they divide the window."""
    lam: float = 0.95
    """λ of the returns it ascends."""
    seed: int = 0


def main(options: Options) -> None:
    """Train, compare, print a table."""
    torch.set_num_threads(1)
    if options.windows < 2 or options.windows % 2:
        raise SystemExit(f"windows is {options.windows}; give an even number for two halves")
    agent, env = recommended("shac++", options.env).make(seed=options.seed)
    assert isinstance(agent, SHAC)
    uneven = [n for n in options.lengths if n < 1 or agent.config.horizon % n]
    if uneven:
        raise SystemExit(f"lengths {uneven} do not divide the window, {agent.config.horizon} steps")
    agent.learn(options.total_steps, progress_bar=True)
    pathwise = PathwiseGradient(
        PathwiseConfig(lam=options.lam),
        env,
        agent.actor,
        agent.value,
        agent.minibatch_rng,
        agent.config.horizon,
    )
    agent.actor.freeze_normaliser(agent.minibatch_rng)
    halves: dict[int | str, list[Tensor]] = {}
    for number in range(options.windows):
        noise = agent.noise.draw(agent.config.horizon)
        window = env.collect(NoisyPolicy(agent.actor, noise), agent.config.horizon)
        found: dict[int | str, Tensor] = {LIKELIHOOD_RATIO: score_gradient(agent, window)}
        for length in options.lengths:
            found[length] = pathwise_gradient(agent, pathwise, window, noise, length)
        for name, gradient in found.items():
            sums = halves.setdefault(name, [torch.zeros_like(gradient) for _ in range(2)])
            sums[number % 2] += gradient / options.windows
    print(table(halves, options))


def score_gradient(agent: SHAC, window: Window) -> Tensor:
    """Return the descent direction of advantages weighed by log-densities, flat."""
    with torch.no_grad():
        advantage = agent.value.targets(window) - agent.critic.target(window.obs)
        advantage = advantage.mean(-1, keepdim=True)
    density = agent.actor.log_prob(window.obs, window.action)
    return flat_gradient(agent, -((advantage - advantage.mean()) * density).sum(-1).mean())


def pathwise_gradient(
    agent: SHAC, pathwise: PathwiseGradient, window: Window, noise: Tensor, length: int
) -> Tensor:
    """Return the descent direction of modelled returns of the window's segments, flat."""
    segments = minibatches(window, noise, length=length, count=1, generator=agent.minibatch_rng)
    ((part, drawn),) = segments
    part = agent.env.differentiate(part, NoisyPolicy(agent.actor, drawn))
    return flat_gradient(agent, pathwise.return_loss(part))


def flat_gradient(agent: SHAC, loss: Tensor) -> Tensor:
    """Return the gradient with respect to the weights of the policy's network, as one vector."""
    weights = list(agent.actor.net.parameters())
    return torch.cat([part.flatten() for part in torch.autograd.grad(loss, weights)])


def table(halves: dict[int | str, list[Tensor]], options: Options) -> str:
    """Return a row for the likelihood-ratio gradient and for each length."""
    one, other = halves[LIKELIHOOD_RATIO]
    lines = [
        f"{options.env} after {options.total_steps:,} steps, {options.windows} windows, seed "
        f"{options.seed}\n",
        "| gradient | cosine with the likelihood-ratio gradient | cosine of its two halves |",
        "|---|---|---|",
    ]
    for name, (first, second) in halves.items():
        row = name if name == LIKELIHOOD_RATIO else f"learned, segments of {name}"
        with_score = float(cosine_similarity(first + second, one + other, dim=0))
        itself = float(cosine_similarity(first, second, dim=0))
        lines.append(f"| {row} | {with_score:.2f} | {itself:.3f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))

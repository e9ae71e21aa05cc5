"""What a learned gradient knows of an action's effect: on the next state, reward, value, advantage.

Trains SHAC++ with a constant weight of its gradient. At each look, over new windows, it correlates
what an action's deviation from the mean did with what models and value function say of it:

- state, reward, value: the real change from what is predicted of the mean action, beside the
  predicted change;
- value's slope: the real change of the value, beside the slope at the mean action times the
  deviation;
- advantage: the sampled advantage (λ = .95), beside the slope of reward and discounted value times
  the deviation. It holds the noise of all later actions, so that even the truth would come to
  little.

    python examples/benchmarks/slope_parts.py mujoco/HalfCheetah-v5
"""

from dataclasses import dataclass, replace

import torch
import tyro
from torch import Tensor

from diffsurrogate import SHAC, HybridUpdateConfig, LearnedDiffWrapper, SHACConfig, recommended
from diffsurrogate.actor_critic.actor import NoisyPolicy

COLUMNS = ("state", "reward", "value", "value's slope", "advantage", "slope term over advantage")


@dataclass
class Options:
    """What to train, and when to look."""

    env: tyro.conf.Positional[str]
    total_steps: int = 80_000
    every: int = 20_000
    """Env steps between two looks."""
    windows: int = 10
    """Of a look."""
    weight: float = 1.0
    """Of the learned gradient."""
    seed: int = 0


def main(options: Options) -> None:
    """Train, look, print a table."""
    torch.set_num_threads(1)
    recipe = recommended("shac++", options.env)
    config = recipe.config
    assert isinstance(config, SHACConfig)
    assert isinstance(config.update, HybridUpdateConfig)
    update = replace(config.update, weight=options.weight, weight_steps=None)
    recipe = replace(recipe, config=replace(config, update=update))
    agent, env = recipe.make(seed=options.seed)
    assert isinstance(agent, SHAC)
    assert isinstance(env, LearnedDiffWrapper)
    print(f"{options.env}, seed {options.seed}\n")
    print(f"| env steps | {' | '.join(COLUMNS)} |\n{'|---' * (len(COLUMNS) + 1)}|")
    for steps in range(options.every, options.total_steps + 1, options.every):
        agent.learn(steps)
        found = torch.tensor([look(agent, env) for _ in range(options.windows)]).mean(0)
        row = " | ".join(f"{float(value):.2f}" for value in found)
        print(f"| {agent.env_steps:,} | {row} |", flush=True)


def look(agent: SHAC, env: LearnedDiffWrapper) -> tuple[float, ...]:
    """Return the columns for a new window of the policy as it is."""
    agent.actor.freeze_normaliser(agent.minibatch_rng)
    noise = agent.noise.draw(agent.config.horizon)
    window = env.collect(NoisyPolicy(agent.actor, noise), agent.config.horizon)
    with torch.no_grad():
        mean = agent.actor.act(window.obs, None)
        advantage = agent.value.targets(window) - agent.critic.target(window.obs)
        reward, after, _ = env.predict_step(window.obs, window.action)
    action = mean.clone().requires_grad_()
    usual_reward, usual_after, _ = env.predict_step(window.obs, action)
    usual_value = agent.critic.target(usual_after)
    total = usual_reward / agent.value.scale.scale + agent.value.gamma * usual_value
    value_slope, slope = (
        torch.autograd.grad(part.sum(), action, retain_graph=True)[0]
        for part in (usual_value, total)
    )
    usual_reward, usual_after, usual_value = (
        part.detach() for part in (usual_reward, usual_after, usual_value)
    )
    deviation = window.action - mean
    with torch.no_grad():
        value, real_value = agent.critic.target(after), agent.critic.target(window.next_obs)
    states = [
        correlation((window.next_obs - usual_after)[..., i], (after - usual_after)[..., i])
        for i in range(env.obs_dim)
    ]
    term = (slope * deviation).sum(-1)
    return (
        sum(states) / len(states),
        correlation(window.reward - usual_reward, reward - usual_reward),
        correlation(real_value - usual_value, value - usual_value),
        correlation(real_value - usual_value, (value_slope * deviation).sum(-1)),
        correlation(advantage, term),
        float(term.std() / advantage.std()),
    )


def correlation(one: Tensor, other: Tensor) -> float:
    """Return Pearson's correlation over all entries, 0 where one of the two is constant."""
    pair = torch.stack([one.flatten(), other.flatten()])
    return float(torch.corrcoef(pair)[0, 1].nan_to_num())


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))

"""Segments of native gradients, and their length by how much the gradient grows along them."""

import itertools
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from toys.reach import ENVS, Reach, config, learned_reach

from diffsurrogate.actor_critic.actor import NoisyPolicy
from diffsurrogate.algorithms.adaptive_horizon import AdaptiveHorizon
from diffsurrogate.algorithms.pathwise import PathwiseConfig
from diffsurrogate.algorithms.policy_updates import GradientUpdateConfig
from diffsurrogate.algorithms.shac import SHAC
from diffsurrogate.envs.torch_env import TorchEnv

HORIZON = 6


def shac(env: TorchEnv, *, horizon: int = HORIZON, **kwargs: float | None) -> SHAC:
    gradient = PathwiseConfig(action_penalty_weight=0.0, **kwargs)
    update = GradientUpdateConfig(gradient=gradient)
    return SHAC(env, replace(config(update=update), horizon=horizon), seed=0)


def norms(*of_steps: float) -> list[Tensor]:
    """Norms in three envs, of which the root mean square is the given one."""
    return [torch.tensor([0.0, 3.0, 3.0]).mul(size / 6**0.5) for size in of_steps]


class Spread(TorchEnv):
    """A point whose distance from the origin is multiplied in every step."""

    factor = 3.0

    def spawn(self, count, generator):
        return {"pos": torch.rand(count, 1, 2, generator=generator)}

    def observe(self, state):
        return state["pos"].clamp(-10, 10)

    def advance(self, state, action):
        return {"pos": (self.factor * state["pos"] + 0.1 * action).clamp(-1e6, 1e6)}

    def reward(self, state, action, next_state):
        return -next_state["pos"].abs().sum(-1) - 0.01 * action.square().sum(-1)


def spread(factor: float) -> Spread:
    env = Spread(
        num_envs=ENVS, agents=["point"], obs_dim=2, act_dim=2, max_steps=12, differentiable=True
    )
    env.factor = factor
    return env


def test_segments_of_native_gradients_start_at_constants_and_end_in_values():
    agent = shac(Reach(differentiable=True), segment_length=2)
    agent.learn(3 * ENVS * HORIZON)  # a new critic is flat
    env, weights = agent.env, list(agent.actor.parameters())
    noise, state = agent.noise.draw(HORIZON), agent.env.state()

    def gradient_of(loss: Tensor) -> Tensor:
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights)])

    update = agent.policy_update.gradient
    (part,) = update.parts(update.collect(NoisyPolicy(agent.actor, noise), HORIZON), noise)
    found = gradient_of(update.return_loss(part))

    env.set_state(state)
    by_hand = torch.zeros_like(found)
    for t in range(0, HORIZON, 2):
        env.detach()
        window = env.rollout(NoisyPolicy(agent.actor, noise[t : t + 2]), 2)
        by_hand += gradient_of(update.return_loss(window)) / 3
    torch.testing.assert_close(found, by_hand)

    env.set_state(state)
    env.detach()
    whole = env.rollout(NoisyPolicy(agent.actor, noise), HORIZON)
    assert not torch.allclose(found, gradient_of(update.return_loss(whole)), rtol=1e-2)


def test_growth_is_of_the_first_norm_over_the_last_in_root_mean_squares():
    adaptive = AdaptiveHorizon(3, max_growth=1e9)
    adaptive.update([*norms(8, 1, 2), *norms(4, 9, 2)])  # (64 + 16) / 2 over 4
    assert adaptive.growth == pytest.approx(10 ** (0.5 * 0.2))
    adaptive.update(norms(0, 0, 0))
    assert adaptive.growth == pytest.approx(10 ** (0.5 * 0.2))


def test_the_length_is_a_divisor_that_falls_with_growth_and_rises_after_calm():
    adaptive = AdaptiveHorizon(12, max_growth=2.0)

    def lengths(factor: float, windows: int) -> list[int]:
        seen = []
        for _ in range(windows):
            seen.append(length := int(adaptive.length))
            adaptive.update(norms(*[factor**k for k in range(length, 0, -1)]))
        return [length for length, _ in itertools.groupby(seen)]

    assert lengths(1.5, 60) == [12, 6, 4, 3, 2]  # 1.5 ** 2 is above 2, and 1.5 above its half
    assert lengths(0.9, 80) == [2, 3, 4, 6, 12]


@pytest.mark.parametrize(("factor", "shorter"), [(3.0, True), (0.5, False)])
def test_windows_are_cut_where_the_simulator_amplifies(factor, shorter):
    agent = shac(spread(factor), max_growth=5.0)
    (*_, report) = agent.iterations(12)
    assert (report["segment_length"] < HORIZON) == shorter
    assert agent.learn(13 * ENVS * HORIZON).env_steps == 13 * ENVS * HORIZON


def test_learned_windows_have_adaptive_segments_too():
    agent = shac(learned_reach(), horizon=4, max_growth=0.5)
    (*_, report) = agent.iterations(8)
    assert report["segment_length"] < 4
    assert report["gradient_growth"] > 0

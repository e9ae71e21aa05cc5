"""LearnedDiffWrapper: the simulator's numbers, the surrogates' gradients."""

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from toys.spring import (
    AGENTS,
    ENVS,
    HORIZON,
    Spring,
    TrueReward,
    TrueStep,
    gaussian_policy,
    policy_gradient,
    small,
    stepped,
)

from diffsurrogate.actor_critic.actor import NoisyPolicy
from diffsurrogate.data.segments import minibatches
from diffsurrogate.envs.window import Window
from diffsurrogate.errors import UsageError
from diffsurrogate.wrappers.learned import LearnedDiffWrapper
from diffsurrogate.wrappers.vmas.paper_tasks import make as make_paper

ESTIMATORS = list(itertools.product(("step", "awm"), ("real", "predicted"), ("closed", "open")))


@pytest.mark.parametrize("dynamics", [True, False], ids=["full", "reward only"])
def test_values_equal_the_unwrapped_env_bit_for_bit(dynamics):
    kwargs = {"num_envs": ENVS, "n_agents": AGENTS, "seed": 5, "max_steps": 19}
    bare = make_paper("dispersion", **kwargs)
    env = LearnedDiffWrapper(make_paper("dispersion", **kwargs), dynamics=dynamics)
    first, _ = bare.reset(seed=11)
    assert torch.equal(first, env.reset(seed=11)[0])
    generator = torch.Generator().manual_seed(0)
    for number in range(43):  # past two time limits
        action = 2 * torch.randn(ENVS, AGENTS, 2, generator=generator)
        theirs, ours = bare.step(action), env.step(action.clone().requires_grad_())
        for a, b in zip(theirs[:4], ours[:4], strict=True):
            assert torch.equal(a, b)
        assert torch.equal(theirs[4]["final_obs"], ours[4]["final_obs"])
        if number % HORIZON == 0:
            env.detach()


LIMITED = [("step", "real", "closed"), ("awm", "predicted", "open")]


@pytest.mark.parametrize(
    ("dynamics", "anchor", "loop", "limit"),
    [(*estimator, None) for estimator in ESTIMATORS] + [(*limited, 0.5) for limited in LIMITED],
)
def test_windows_equal_stepping_in_values_and_gradients(dynamics, anchor, loop, limit):
    """Both with resets inside the window: time limits at 3 of 5 steps, and terminations."""
    results = []
    for fast in (True, False):
        config = replace(small(dynamics, anchor, loop), adjoint_clip=limit)
        env = LearnedDiffWrapper(Spring(max_steps=3), config=config)
        env.reset(seed=2)
        for _ in range(3):  # train the models, or their zero last layer hides everything
            env.detach()
            env.fit(env.rollout(gaussian_policy(env), HORIZON))
        env.detach()
        policy = gaussian_policy(env)
        window = env.rollout(policy, HORIZON) if fast else stepped(env, policy)
        results.append((window, policy))
    (fast_window, fast_policy), (slow_window, slow_policy) = results
    for name in ("obs", "action", "reward", "next_obs", "terminated", "truncated"):
        assert torch.equal(getattr(fast_window, name), getattr(slow_window, name)), name
    assert fast_window.ended.any()
    assert fast_window.ended.float().mean() < 1
    a, b = policy_gradient(fast_window, fast_policy), policy_gradient(slow_window, slow_policy)
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("dynamics", "anchor", "loop"), ESTIMATORS)
def test_a_window_can_be_differentiated_again_and_in_parts(dynamics, anchor, loop):
    """Twice gives the same; the gradients of three groups of envs add up to that of all."""
    config = small(dynamics, anchor, loop)
    env = LearnedDiffWrapper(Spring(max_steps=3), config=config)
    env.reset(seed=2)
    for _ in range(3):
        env.fit(env.rollout(gaussian_policy(env), HORIZON).detach())
    state, policy = env.state(), gaussian_policy(env)
    whole = policy_gradient(env.rollout(policy, HORIZON), policy)
    env.set_state(state)
    policy.step = 0
    window = env.collect(policy, HORIZON)
    assert not any(x.requires_grad for x in (window.obs, window.action, window.reward))
    for _ in range(2):
        again = policy_gradient(env.differentiate(window, policy), policy)
        torch.testing.assert_close(again, whole)
    total, sizes = torch.zeros_like(whole), []
    generator = torch.Generator().manual_seed(0)
    for part, noise in minibatches(
        window, policy.noise, length=HORIZON, count=3, generator=generator
    ):
        group = NoisyPolicy(policy.actor, noise)
        share = part.reward.shape[1] / ENVS
        sizes.append(part.reward.shape[1])
        total += share * policy_gradient(env.differentiate(part, group), group)
    assert len(sizes) == 3
    assert sum(sizes) == ENVS
    torch.testing.assert_close(total, whole, atol=1e-5, rtol=1e-4)


def test_what_the_simulator_differentiates_cannot_be_differentiated_again():
    env = LearnedDiffWrapper(Spring(), dynamics=False, config=small())
    env.reset(seed=0)
    policy = gaussian_policy(env)
    window = env.collect(policy, HORIZON)
    for refusing in (env, env.env):
        with pytest.raises(UsageError, match="everything is learned"):
            refusing.differentiate(window, policy)


def first_gradient(env: Any, *, sees: bool = True) -> Tensor:
    """Return the policy's gradient in a first window, without that of what it sees if asked."""
    env.reset(seed=2)
    policy = gaussian_policy(env)
    window = env.rollout(policy if sees else lambda obs: policy(obs.detach()), HORIZON)
    return policy_gradient(window, policy)


@pytest.mark.parametrize(
    ("real", "given", "config"),
    [
        (False, {}, small("step", "real")),
        (False, {}, small("step", "predicted")),
        (False, {}, small("step", "real", "open")),
        (True, {"dynamics": False}, small()),
        (True, {"reward": False}, small()),
    ],
    ids=["closed loop", "predicted", "open loop", "simulator's dynamics", "simulator's reward"],
)
def test_true_models_give_the_true_gradient(real, given, config):
    """Open loop is the gradient with every observation held constant.

    Whatever is not learned is the simulator's own.
    """
    open_loop = config.loop == "open"
    true = first_gradient(Spring(differentiable=True, max_steps=4), sees=not open_loop)
    env = LearnedDiffWrapper(
        Spring(differentiable=real, max_steps=4),
        **({"reward": TrueReward(), "dynamics": TrueStep()} | given),
        config=config,
        continuous=torch.ones(AGENTS, 2, dtype=torch.bool),
    )
    assert true.norm() > 1e-3
    torch.testing.assert_close(first_gradient(env), true, atol=1e-5, rtol=1e-5)


def test_true_models_agree_with_the_true_gradient_and_the_env_stands_where_it_stood():
    env = LearnedDiffWrapper(
        Spring(max_steps=11),
        reward=TrueReward(),
        dynamics=TrueStep(),
        continuous=torch.ones(AGENTS, 2, dtype=torch.bool),
    )
    env.reset(seed=2)
    policy, before = gaussian_policy(env), env.env.state()

    def loss(window: Window) -> Tensor:
        return -window.reward.mean() + window.next_obs[-1].square().mean()

    report = env.compare_gradients(
        lambda: NoisyPolicy(policy.actor, policy.noise),
        HORIZON,
        loss,
        policy.actor.net.parameters(),
    )
    assert list(report.values()) == pytest.approx([1.0, 1.0], rel=1e-4)
    assert torch.equal(env.env.state()["current_obs"], before["current_obs"])
    assert (env.learns_dynamics, env.learns_reward, env.env.gradients) == (True, True, frozenset())


def test_discrete_entries_are_found_and_carry_no_gradient():
    env = LearnedDiffWrapper(make_paper("dispersion", num_envs=ENVS, n_agents=1, seed=1))
    env.reset(seed=1)
    window = env.rollout(gaussian_policy(env), HORIZON)
    env.fit(window)
    assert env.surrogates.continuous.mask.tolist() == [[True] * 6 + [False]]
    env.detach()
    window = env.rollout(gaussian_policy(env), HORIZON)
    (grad,) = torch.autograd.grad(window.next_obs[..., 6].sum(), window.action, allow_unused=True)
    assert grad is None or not grad.any()


@pytest.mark.parametrize("flag", ["dynamics", "reward"])
def test_asking_for_gradients_the_env_has_not_is_refused(flag):
    class Opaque(Spring):
        true_gradients = frozenset()

    with pytest.raises(UsageError, match=f"Leave {flag}=True"):
        LearnedDiffWrapper(Opaque(), **{flag: False})


def test_wrapping_twice_is_refused():
    env = LearnedDiffWrapper(Spring(differentiable=False))
    with pytest.raises(UsageError, match="already"):
        LearnedDiffWrapper(env)


def test_an_unknown_env_is_refused_with_what_is_known():
    with pytest.raises(UsageError, match="register_adapter"):
        LearnedDiffWrapper(object())


def test_a_raw_vmas_env_is_adapted():
    import vmas

    raw = vmas.make_env("navigation", num_envs=ENVS, n_agents=AGENTS, seed=0)
    env = LearnedDiffWrapper(raw, dynamics=False)
    assert (env.num_envs, env.num_agents) == (ENVS, AGENTS)
    assert "dynamics" in env.env.gradients


def test_only_windows_can_be_fitted():
    with pytest.raises(UsageError, match="iterable of Windows"):
        LearnedDiffWrapper(Spring()).fit(3)

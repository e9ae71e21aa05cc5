"""An env of two JAX functions: its numbers, its gradients in torch, its seeds and its refusals.

JAX is imported in the tests, not with this file: that takes seconds.
"""

import functools
import importlib.util
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from diffsurrogate.algorithms.shac import SHAC, SHACConfig
from diffsurrogate.errors import UsageError
from diffsurrogate.gradients.finite_differences import check_gradients
from diffsurrogate.wrappers.learned import LearnedDiffWrapper
from diffsurrogate.wrappers.observation_history import ObservationHistory

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("jax") is None, reason="needs the extra jax"
)

ENVS, STEPS = 5, 7
LENGTH = {"length": 0.5}
TRACES: list[str] = []
"""Grows whenever JAX traces `step`."""


@functools.cache
def pendulum() -> tuple[Any, Any]:
    """Return `reset` and `step` of a pendulum whose length is a parameter."""
    import jax
    import jax.numpy as jnp

    def seen(state: Any) -> Any:
        return jnp.stack([jnp.cos(state["angle"]), jnp.sin(state["angle"]), state["speed"]])

    def reset(key: Any, params: Any) -> tuple[Any, Any]:
        angle = jax.random.uniform(key, minval=-1.0, maxval=1.0)
        state = {"angle": angle, "speed": 0.0 * angle, "steps": 0, "key": jax.random.key(3)}
        return state, seen(state)

    def step(state: Any, action: Any, params: Any) -> tuple[Any, Any, Any, Any]:
        TRACES.append("step")
        pull = 9.81 / params["length"] * jnp.sin(state["angle"]) + 3.0 * action[0]
        speed = state["speed"] + 0.05 * pull
        after = state | {"angle": state["angle"] + 0.05 * speed, "speed": speed}
        after |= {"steps": state["steps"] + 1, "key": jax.random.split(state["key"])[0]}
        reward = -jnp.square(after["angle"]) - 0.1 * jnp.square(speed)
        return after, seen(after), reward, jnp.abs(speed) > 50

    return reset, step


def made(**options: Any) -> Any:
    from diffsurrogate.wrappers.jax.adapter import JaxEnv

    options = {"num_envs": ENVS, "act_dim": 1, "params": LENGTH, "max_steps": 50} | options
    return JaxEnv(*pendulum(), **options)


def torch_step(angle: Tensor, speed: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same step in torch."""
    speed = speed + 0.05 * (9.81 / 0.5 * torch.sin(angle) + 3.0 * action)
    angle = angle + 0.05 * speed
    return angle, speed, -angle.square() - 0.1 * speed.square()


def some_actions(requires_grad: bool = False) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    actions = 2 * torch.rand(STEPS, ENVS, 1, 1, generator=generator) - 1
    return actions.requires_grad_(requires_grad)


def test_numbers_and_gradients_are_those_of_the_same_formula_in_torch():
    env = made(differentiable=True)
    obs, _ = env.reset(seed=1)
    angle, speed = torch.atan2(obs[:, 0, 1], obs[:, 0, 0]), obs[:, 0, 2]
    ours, theirs = some_actions(True), some_actions(True)
    total, expected = 0, 0
    for own, other in zip(ours, theirs, strict=True):
        obs, reward, *_ = env.step(own)
        angle, speed, paid = torch_step(angle, speed, other[:, 0, 0])
        torch.testing.assert_close(obs[:, 0, 2], speed)
        torch.testing.assert_close(reward[:, 0], paid)
        total = total + reward.sum() + obs[:, 0, 1].sum()
        expected = expected + paid.sum() + torch.sin(angle).sum()
    total.backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, theirs.grad)
    assert int(env.gradient_guard.dropped) == 0


def test_gradients_equal_finite_differences():
    report = check_gradients(made(differentiable=True))
    assert report.passed, report
    assert report.reward.median_error < 1e-3


def test_a_complex_state_carries_gradients():
    """Of z = 1, turned by a and then by b: Im z squared is sin(a + b)^2, its slope sin(2a + 2b)."""
    import jax.numpy as jnp

    from diffsurrogate.wrappers.jax.adapter import JaxEnv

    def reset(key: Any) -> tuple[Any, Any]:
        return {"z": jnp.ones((), jnp.complex64)}, jnp.array([1.0, 0.0])

    def step(state: Any, action: Any) -> tuple[Any, Any, Any, Any]:
        z = state["z"] * jnp.exp(1j * action[0])
        return {"z": z}, jnp.stack([z.real, z.imag]), z.imag**2, False

    env = JaxEnv(reset, step, act_dim=1, num_envs=2, differentiable=True)
    env.reset(seed=0)
    first = torch.tensor([0.3, 0.7]).view(2, 1, 1).requires_grad_()
    env.step(first)
    reward = env.step(torch.full((2, 1, 1), 0.2))[1]
    (slope,) = torch.autograd.grad(reward.sum(), first)
    torch.testing.assert_close(slope.flatten(), torch.tensor([1.0, 1.8]).sin())


def test_without_differentiable_nothing_has_a_graph_and_gradients_can_be_learned():
    env = made()
    assert env.gradients == frozenset()
    assert env.native_gradients == {"dynamics", "reward"}
    env.reset(seed=1)
    assert not env.step(some_actions(True)[0])[1].requires_grad
    with pytest.raises(UsageError, match="differentiable=True"):
        SHAC(env)
    wrapped = LearnedDiffWrapper(env)
    wrapped.reset(seed=1)
    assert wrapped.step(some_actions(True)[0])[1].requires_grad
    env.enable_gradients("dynamics")
    assert env.gradients == {"dynamics", "reward"}


def test_detach_cuts_the_graph_and_goes_on():
    env = made(differentiable=True)
    env.reset(seed=1)
    actions = some_actions(True)
    env.step(actions[0])
    env.detach()
    assert not env.current_obs.requires_grad
    env.step(actions[1])[1].sum().backward()
    assert actions.grad[0].eq(0).all()
    assert actions.grad[1].ne(0).all()


def test_a_saved_state_goes_on_to_the_same_bits():
    env = made()
    env.reset(seed=3)
    env.step(some_actions()[0])
    state = env.state()
    runs = []
    for _ in range(2):
        runs.append([env.step(action)[0].clone() for action in some_actions()])
        runs[-1] += [env.reset()[0].clone()]
        runs[-1] += [torch.from_dlpack(env.raw_state["steps"]).clone()]
        env.set_state(state)
    for one, other in zip(*runs, strict=True):
        assert torch.equal(one, other)
    assert env.raw_state["steps"].tolist() == [1] * ENVS
    with pytest.raises(UsageError, match="its arrays have other shapes"):
        env.set_state(state | {"simulator": state["simulator"] | {"rest": []}})


def test_some_copies_are_reset_and_the_others_keep_state_and_graph():
    env = made(differentiable=True)
    env.reset(seed=1)
    actions = some_actions(True)
    before = env.step(actions[0])[0]
    mask = torch.tensor([True, False, False, True, False])
    obs, _ = env.reset(options={"reset_mask": mask})
    assert torch.equal(obs[~mask], before[~mask])
    assert (obs[mask] != before[mask]).any(dim=-1).all()
    assert env.raw_state["steps"].tolist() == [0, 1, 1, 0, 1]
    env.step(actions[1])[1].sum().backward()
    assert torch.equal(actions.grad[0].flatten() == 0, mask)


def test_a_copy_without_a_number_leaves_the_others_gradients_alone():
    env, clean = made(differentiable=True), made(differentiable=True)
    gradients = []
    for one in (env, clean):
        one.reset(seed=1)
        if one is env:
            state = one.state()
            state["simulator"]["moving"][0][2] = torch.nan  # the angle of copy 2
            one.set_state(state)
        actions = some_actions(True)
        with one.restarting_broken():
            first, second = one.step(actions[0]), one.step(actions[1])
        (first[1].sum() + second[1].sum()).backward()
        gradients.append(actions.grad.clone())
    others = torch.arange(ENVS) != 2
    assert torch.equal(gradients[0][:, others], gradients[1][:, others])
    assert gradients[0].isfinite().all()
    assert gradients[0][0, 2] == 0
    assert int(env.gradient_guard.dropped) == 1
    assert bool(env.current_obs.isfinite().all())


def test_envs_of_the_same_functions_compile_once_whatever_their_parameters():
    env = made(differentiable=True)
    env.reset(seed=1)
    env.step(some_actions(True)[0])[1].sum().backward()
    again = made(differentiable=True, params={"length": 2.0})  # describing it traces once
    count = len(TRACES)
    again.reset(seed=1)
    again.step(some_actions(True)[0])[1].sum().backward()
    assert len(TRACES) == count
    assert not torch.equal(again.current_obs, env.current_obs)


def test_shac_trains_on_it():
    env = made(differentiable=True)
    config = replace(SHACConfig.hybrid(ENVS, learned=False), horizon=8)
    SHAC(env, config, seed=0).learn(2 * 8 * ENVS, progress_bar=False)


def test_agents_have_rows_of_their_own():
    from diffsurrogate.wrappers.jax.adapter import JaxEnv

    def reset(key: Any) -> tuple[Any, Any]:
        import jax.numpy as jnp

        return {"place": jnp.zeros((2, 3))}, jnp.zeros((2, 3))

    def step(state: Any, action: Any) -> tuple[Any, Any, Any, Any]:
        place = state["place"] + action
        return {"place": place}, place, place.sum(-1), False

    env = JaxEnv(reset, step, act_dim=3, agents=["a", "b"], num_envs=ENVS, action_limit=2.0)
    env.reset(seed=0)
    action = torch.full((ENVS, 2, 3), 9.0)
    action[:, 1] = 0.5
    obs, reward, *_ = env.step(action)
    assert obs.shape == (ENVS, 2, 3)
    assert reward.tolist() == [[6.0, 1.5]] * ENVS


def start(key: Any) -> tuple[Any, Any]:
    import jax.numpy as jnp

    return {"x": jnp.zeros(3)}, jnp.zeros(3)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (lambda s, a: (s, s["x"], 0.0), r"step\(\) returns 3 values; a tuple of 4 is needed"),
        (lambda s, a: (s, s["x"][:2], 0.0, False), r"an obs of shape \(2,\); \(obs_dim,\)"),
        (lambda s, a: (s, s["x"], a, False), r"a reward of shape \(1,\); \(\) is needed"),
        (lambda s, a: ({"x": 0.0}, s["x"], 0.0, False), "not shaped as that after reset"),
        (lambda s, a: (OrderedDict(s), s["x"], 0.0, False), "its arrays are, but not what it is"),
        (lambda s, a: (s, s["x"], float(a), False), "cannot be compiled by JAX"),
    ],
    ids=["count", "obs", "reward", "state", "container", "untraceable"],
)
def test_functions_that_do_not_fit_are_refused(step, message):
    from diffsurrogate.wrappers.jax.adapter import JaxEnv

    with pytest.raises(UsageError, match=message):
        JaxEnv(start, step, act_dim=1)


def test_a_step_without_a_gradient_is_refused_when_one_is_asked_for():
    import jax

    from diffsurrogate.wrappers.jax.adapter import JaxEnv

    def step(state: Any, action: Any) -> tuple[Any, Any, Any, Any]:
        place = jax.lax.while_loop(lambda x: x[0] < 1, lambda x: x + action, state["x"])
        return {"x": place}, place, place.sum(), False

    with pytest.raises(UsageError, match=r"cannot differentiate step\(\).*Leave out"):
        JaxEnv(start, step, act_dim=1, differentiable=True)
    env = JaxEnv(start, step, act_dim=1)
    with pytest.raises(UsageError, match="cannot differentiate"):
        env.enable_gradients("dynamics")
    assert env.gradients == frozenset()


class FakeConfig(SimpleNamespace):
    def update(self, name: str, value: Any) -> None:
        setattr(self, name, value)


@pytest.mark.parametrize(
    ("given", "enabled", "used"),
    [(None, True, "ours"), ("theirs", True, "theirs"), (None, False, None)],
    ids=["nobody decided", "another folder", "turned off"],
)
def test_what_is_compiled_is_kept_unless_somebody_decided(given, enabled, used, tmp_path):
    from diffsurrogate.wrappers.jax.library import keep_compiled

    config = FakeConfig(
        jax_compilation_cache_dir=given,
        jax_enable_compilation_cache=enabled,
        jax_compilation_cache_max_size=-1,
    )
    keep_compiled(config, tmp_path / "ours")
    folder = config.jax_compilation_cache_dir
    assert (folder and Path(folder).name) == used
    assert (config.jax_compilation_cache_max_size > 0) == (used == "ours")


def test_a_folder_that_cannot_be_made_turns_nothing_on(tmp_path):
    from diffsurrogate.wrappers.jax.library import keep_compiled

    (tmp_path / "file").write_text("")
    config = FakeConfig(jax_compilation_cache_dir=None, jax_enable_compilation_cache=True)
    keep_compiled(config, tmp_path / "file" / "folder")
    assert config.jax_compilation_cache_dir is None


def test_a_wrapper_counts_the_gradients_that_the_env_in_it_drops():
    import jax.numpy as jnp

    from diffsurrogate.wrappers.jax.adapter import JaxEnv

    def step(place: Any, action: Any) -> tuple[Any, Any, Any, Any]:
        after = place + 0.1 * action
        nothing = jnp.sqrt(jnp.square(after - after)).sum()  # 0, with a gradient of NaN
        return after, after, nothing - jnp.square(after).sum(), False

    inner = JaxEnv(
        lambda key: (jnp.ones(2), jnp.ones(2)), step, act_dim=2, num_envs=ENVS, differentiable=True
    )
    env = ObservationHistory(inner, steps=2)
    (report,) = SHAC(env, SHACConfig(horizon=STEPS)).iterations(1)
    assert report["dropped_gradients"] == ENVS * STEPS
    assert "non-finite in 5 of 5 envs" in str(check_gradients(env))

"""Envs of Brax's protocol: the raw env's numbers, gradients and ends, and what is refused.

Brax is imported in the tests, not with this file: that takes seconds. It is no part of the extra
`dev`: `pip install brax` to run these.
"""

import functools
import importlib.util
import warnings
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from diffsurrogate.algorithms.shac import SHAC, SHACConfig
from diffsurrogate.envs.registry import as_multi_agent
from diffsurrogate.errors import UsageError
from diffsurrogate.gradients.finite_differences import check_gradients
from diffsurrogate.wrappers.external.adapter import env_seeds

pytestmark = pytest.mark.skipif(importlib.util.find_spec("brax") is None, reason="needs Brax")

ENVS, STEPS = 5, 7


@functools.cache
def brax_envs() -> Any:
    """Return `brax.envs`, without the warning that Brax's JAXopt is no longer maintained."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return importlib.import_module("brax.envs")


@functools.cache
def kinds() -> dict[str, type]:
    """Return envs as users write them: a point with a push, and what can be said of it."""
    import jax
    import jax.numpy as jnp

    base = brax_envs()

    class Point(base.Env):
        """Pushed towards 0 on a line, with noise; ends beyond 2."""

        observation_size, action_size, backend = 2, 1, "none"

        def reset(self, rng: Any) -> Any:
            place = jax.random.uniform(rng, (1,), minval=-1.0, maxval=1.0)
            body = {"place": place, "speed": jnp.zeros(1)}
            info = {"rng": rng, "count": 0}
            metrics = {"far": jnp.zeros(())}
            return base.State(body, self.see(body), jnp.zeros(()), jnp.zeros(()), metrics, info)

        def step(self, state: Any, action: Any) -> Any:
            key, own = jax.random.split(state.info["rng"])
            push = action + 0.1 * jax.random.normal(own, (1,))
            speed = 0.9 * state.pipeline_state["speed"] + push
            place = state.pipeline_state["place"] + 0.1 * jnp.tanh(speed)
            body = {"place": place, "speed": speed}
            reward = -jnp.square(place).sum() - 0.1 * jnp.square(action).sum()
            done = jnp.where(jnp.abs(place[0]) > 2.0, 1.0, 0.0)
            state.info.update(rng=key, count=state.info["count"] + 1)
            state.metrics.update(far=jnp.abs(place[0]))
            return state.replace(pipeline_state=body, obs=self.see(body), reward=reward, done=done)

        def see(self, body: Any) -> Any:
            return jnp.concatenate([body["place"], body["speed"]])

    class Asymmetric(Point):
        def see(self, body: Any) -> Any:
            return {"privileged_state": super().see(body), "state": body["place"]}

    class Pictures(Point):
        def see(self, body: Any) -> Any:
            return {"state": body["place"], "pixels/view_0": jnp.zeros((4, 4, 3))}

    class Loop(Point):
        def step(self, state: Any, action: Any) -> Any:
            action = jax.lax.while_loop(lambda x: x.sum() < 0, lambda x: x + 0.1, action)
            return super().step(state, action)

    class Renamed(Point):
        def step(self, state: Any, action: Any) -> Any:
            after = super().step(state, action)
            after.info.update(count=1.0 * after.info["count"], extra=action)
            return after

    return {kind.__name__: kind for kind in (Point, Asymmetric, Pictures, Loop, Renamed)}


def made(kind: str = "Point", **options: Any) -> Any:
    return as_multi_agent(kinds()[kind](), **({"num_envs": ENVS} | options))


def some_actions(requires_grad: bool = False) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    actions = 2 * torch.rand(STEPS, ENVS, 1, 1, generator=generator) - 1
    return actions.requires_grad_(requires_grad)


def check_against(raw: Any, env: Any, actions: Tensor) -> None:
    """Check that copy 2 does what the raw env does when JAX steps it alone."""
    import jax
    import jax.numpy as jnp

    obs, _ = env.reset(seed=3)
    key = jax.random.split(jax.random.PRNGKey(env_seeds(3, ENVS)[2]))[1]
    state, step = jax.jit(raw.reset)(key), jax.jit(raw.step)
    for action in actions:
        torch.testing.assert_close(obs[2, 0], torch.from_dlpack(state.obs), rtol=1e-4, atol=1e-5)
        obs, reward, terminated, _, _ = env.step(action)
        state = step(state, jnp.asarray(action[2, 0].numpy()))
        assert reward[2, 0].item() == pytest.approx(float(state.reward), rel=1e-4, abs=1e-5)
        assert bool(terminated[2]) == bool(state.done)


def test_numbers_are_those_of_the_raw_env_stepped_by_jax():
    raw = kinds()["Point"]()
    check_against(raw, as_multi_agent(raw, num_envs=ENVS), some_actions())


@pytest.mark.filterwarnings("ignore:Accessing .* directly from `Data`:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:Brax System, piplines and environments:UserWarning")
def test_a_robot_of_brax_has_its_numbers_and_gradients():
    raw = brax_envs().get_environment("inverted_pendulum", backend="spring")
    env = as_multi_agent(raw, num_envs=ENVS, differentiable=True)
    check_against(raw, env, 0.2 * some_actions())
    env.reset(seed=3)
    start, direction = env.state(), some_actions()[0]

    def angle(size: float) -> float:
        env.set_state(start)
        return env.step(size * direction)[0][..., 1].sum().item()

    env.set_state(start)
    action = torch.zeros(ENVS, 1, 1, requires_grad=True)
    env.step(action)[0][..., 1].sum().backward()
    slope = (angle(0.05) - angle(-0.05)) / 0.1
    assert (action.grad * direction).sum().item() == pytest.approx(slope, rel=1e-2)


def test_gradients_equal_finite_differences():
    report = check_gradients(made(differentiable=True))
    assert report.passed, report


@pytest.mark.parametrize(
    ("limit", "terminated", "truncated"), [(5, False, True), (50, True, False)]
)
def test_done_terminates_and_the_time_limit_truncates(limit, terminated, truncated):
    env = made(max_steps=limit)
    env.reset(seed=0)
    for _ in range(limit):
        *_, ended, cut, info = env.step(torch.ones(ENVS, 1, 1))
        if bool(ended.any() | cut.any()):
            break
    assert (bool(ended.any()), bool(cut.any())) == (terminated, truncated)
    if terminated:
        assert (info["final_obs"][ended][:, 0, 0] > 2).all()
    counts = env.raw_state.info["count"]
    assert [count == 0 for count in counts.tolist()] == (ended | cut).tolist()


def test_without_a_time_limit_of_its_own_an_env_has_that_of_brax():
    class Config:
        episode_length = 150

    assert made().max_steps == 1000
    raw = kinds()["Point"]()
    raw._config = Config()
    assert as_multi_agent(raw).max_steps == 150
    assert as_multi_agent(raw, max_steps=3).max_steps == 3


def test_a_saved_state_goes_on_to_the_same_bits():
    env = made()
    env.reset(seed=3)
    env.step(some_actions()[0])
    state = env.state()
    runs = []
    for _ in range(2):
        runs.append([env.step(action)[0].clone() for action in some_actions()])
        runs[-1] += [env.reset()[0].clone()]
        env.set_state(state)
    assert all(torch.equal(one, other) for one, other in zip(*runs, strict=True))
    assert env.raw_state.info["count"].tolist() == [1] * ENVS


def test_what_the_policy_must_not_see_is_the_global_state():
    env = made("Asymmetric")
    obs, _ = env.reset(seed=0)
    assert env.global_state_slice == slice(1, 3)
    assert obs.shape == (ENVS, 1, 3)
    assert torch.equal(obs[..., 0], obs[..., 1])
    assert made().global_state_slice is None


def test_shac_trains_on_it():
    env = made(differentiable=True, max_steps=20)
    config = replace(SHACConfig.hybrid(ENVS, learned=False), horizon=8)
    SHAC(env, config, seed=0).learn(2 * 8 * ENVS, progress_bar=False)


def test_a_step_without_a_gradient_is_refused_where_one_is_asked_for():
    with pytest.raises(UsageError, match=r"cannot differentiate.*Leave out differentiable=True"):
        made("Loop", differentiable=True)
    env = made("Loop")
    with pytest.raises(UsageError, match=r"opt\.iterations=1"):
        env.enable_gradients("dynamics")
    env.reset(seed=0)
    assert not env.step(some_actions(True)[0])[1].requires_grad


@pytest.mark.parametrize("wrapper", ["create", "vmap", "own"])
def test_envs_of_brax_s_trainers_are_refused_and_users_wrappers_are_not(wrapper):
    base, raw = brax_envs(), kinds()["Point"]()
    if wrapper == "own":
        assert as_multi_agent(base.Wrapper(raw), num_envs=ENVS).obs_dim == 2
        return
    wrapped = base.training.VmapWrapper(raw)
    if wrapper == "create":
        wrapped = base.training.EpisodeWrapper(base.training.AutoResetWrapper(raw), 200, 1)
    with pytest.raises(UsageError, match=r"Point is wrapped .*env\.unwrapped") as error:
        as_multi_agent(wrapped)
    assert f"max_steps={200 if wrapper == 'create' else 1000}" in str(error.value)


def test_warp_s_states_are_refused():
    brax_envs()
    raw = kinds()["Point"]()
    raw.mjx_model = SimpleNamespace(impl=importlib.import_module("mujoco.mjx").Impl.WARP)
    with pytest.raises(UsageError, match=r"MuJoCo Warp.*impl='jax'"):
        as_multi_agent(raw)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("Pictures", {}, "keys 'state', 'pixels/view_0'; known are 'state'"),
        ("Renamed", {}, r"info\['count'\]: int32\[\], then float32\[\]; .*: none, then float32"),
        ("Point", {"episode_length": 5}, "does not take episode_length; it takes num_envs"),
        ("Point", {"max_steps": 0}, "max_steps"),
    ],
    ids=["pictures", "state", "option", "limit"],
)
def test_what_does_not_fit_is_refused(kind, options, message):
    with pytest.raises(UsageError, match=message):
        made(kind, **options)

"""Closed choices and the global state on SMAX: what is taken is open, and trainers train."""

import functools
import importlib.util
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from toys.masked import closed_choices
from toys.reach import NET, config, learned

from diffsurrogate.actor_critic.actor import ActorConfig
from diffsurrogate.actor_critic.exploration import NoiseConfig
from diffsurrogate.algorithms.ppo import MAPPO, PPOConfig
from diffsurrogate.algorithms.shac import SHAC
from diffsurrogate.envs.registry import make
from diffsurrogate.errors import UsageError

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("jaxmarl") is None, reason="needs the extra jaxmarl"
)

ENVS, STEPS = 7, 300


@functools.cache  # compiled once for all tests, each of which resets it
def smax() -> Any:
    return make("jaxmarl/HeuristicEnemySMAX-2s3z", num_envs=ENVS, state=True)


@functools.cache
def raw_masks() -> Any:
    """Return the raw env's own function to masks, not our columns, compiled."""
    import jax

    return jax.jit(jax.vmap(smax().raw.get_avail_actions))


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the env and what reached JAX: how often, how often closed, and how many shots."""
    env, counts = smax(), {"steps": 0, "closed": 0, "shots": 0}
    advance = env._advance

    def watch(action: Tensor) -> Any:
        counts["steps"] += 1
        counts["closed"] += closed_choices(env, env.current_obs, action)
        counts["shots"] += int((action.argmax(-1) >= 5).sum())
        masks = raw_masks()(env._state)
        for index, agent in enumerate(env.raw.agents):
            rows = torch.tensor(masks[agent].tolist())
            chosen = rows.gather(1, action[:, index, : rows.shape[1]].argmax(-1, keepdim=True))
            assert (chosen == 1).all()
        return advance(action)

    monkeypatch.setattr(env, "_advance", watch)
    env.reset(seed=0)
    return env, counts


def test_a_random_policy_takes_open_choices_only(watched):
    env, counts = watched
    generator = torch.Generator().manual_seed(0)
    asked = 0
    for _ in range(STEPS):
        action = torch.rand(ENVS, env.num_agents, env.act_dim, generator=generator)
        asked += closed_choices(env, env.current_obs, action)
        env.step(action)
    assert asked > 1000 and counts["closed"] == 0
    assert counts["steps"] == STEPS and counts["shots"] > 100


@pytest.mark.parametrize("kind", ["mappo", "shac++"])
def test_trained_policies_take_open_choices_only(watched, kind, monkeypatch):
    """None of theirs has to be replaced by the env."""
    env, counts = watched
    original, replaced = type(env).apply_action_mask, []

    def apply_action_mask(action: Tensor) -> Tensor:
        result = original(env, action)
        replaced.append(bool((result != action).any()))
        return result

    monkeypatch.setattr(env, "apply_action_mask", apply_action_mask)
    agent: Any
    if kind == "shac++":
        settings = config(horizon=16, noise=NoiseConfig(), actor=ActorConfig(net=NET))
        agent = SHAC(learned(env), settings, seed=0)
    else:
        agent = MAPPO(env, replace(PPOConfig.mappo(), horizon=50), seed=0)
        assert agent.critic.statistics.shape == (env.num_agents, env.obs_dim)  # the state included
    before = [p.detach().clone() for p in agent.actor.parameters()]
    agent.learn(208 * ENVS)
    for _ in range(50):
        agent.env.step(agent.predict(agent.env.current_obs))
    after = list(agent.actor.parameters())
    assert not all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert agent.skipped == 0
    assert counts["steps"] >= 250 and counts["closed"] == 0 and not any(replaced)


def test_a_global_state_is_there_only_if_asked_for_and_refused_where_there_is_none():
    env = smax()
    assert env.offers_state
    assert env.global_state_slice == slice(
        env.action_mask_slice.stop, env.action_mask_slice.stop + 10 * 12
    )
    spread = make("jaxmarl/MPE_simple_spread_v3", num_envs=2)
    assert (spread.global_state_slice, spread.offers_state) == (None, False)
    with pytest.raises(UsageError, match="SimpleSpreadMPE has no global state"):
        make("jaxmarl/MPE_simple_spread_v3", num_envs=2, state=True)

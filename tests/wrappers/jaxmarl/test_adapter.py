"""JaxMARL's envs keep their numbers, their ends and their keys behind our protocol.

JaxMARL is imported in the tests, not with this file: that takes seconds.
"""

import functools
import importlib.util
import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from diffsurrogate.envs.env import MultiAgentVectorEnv
from diffsurrogate.envs.registry import as_multi_agent, known_ids, make
from diffsurrogate.errors import UsageError
from diffsurrogate.wrappers.external.adapter import env_seeds

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("jaxmarl") is None, reason="needs the extra jaxmarl"
)

ENVS = 5
SPREAD, LISTENER, SMAX = "MPE_simple_spread_v3", "MPE_simple_speaker_listener_v4", "SMAX-3m"
OPTIONS: dict[str, dict[str, Any]] = {
    SPREAD: {"action_type": "Continuous"},
    "HeuristicEnemySMAX-3m": {"state": True},
}


@functools.cache  # compiled once for all tests, each of which resets it
def made(name: str) -> Any:
    name = name.replace("SMAX", "HeuristicEnemySMAX")
    return make(f"jaxmarl/{name}", num_envs=ENVS, **OPTIONS.get(name, {}))


@functools.cache
def corridor() -> Any:
    """Return the class of two walkers, of which a ends the episode beyond 3."""
    import jax
    import jax.numpy as jnp
    from jaxmarl.environments import MultiAgentEnv, spaces

    class Corridor(MultiAgentEnv):  # type: ignore[misc]
        def __init__(self, max_steps: int = 5, *, a: Any = None, broken: str = "") -> None:
            super().__init__(2)
            self.agents, self.max_steps, self.broken = ["a", "b"], max_steps, broken
            self.action_spaces = {"a": a or spaces.Discrete(2), "b": spaces.Discrete(3)}

        def reset(self, key: Any) -> tuple[Any, Any]:
            place = jax.random.uniform(key, (2,))
            state = {"place": place, "step": jnp.array(0), "rng": jax.random.key(7)}
            return self.get_obs(state), state

        def get_obs(self, state: Any) -> Any:
            place, step = state["place"], state["step"]
            obs = {"a": place[:1], "b": {"place": place[1], "time": jnp.stack([step, -step])}}
            return {"a": obs["a"]} if self.broken == "lonely" else obs

        def get_avail_actions(self, state: Any) -> Any:
            first = jnp.stack([state["step"] > 0, state["step"] >= 0, state["step"] >= 0])
            return {"a": jnp.ones(2, dtype=bool), "b": first}

        def step_env(self, key: Any, state: Any, actions: Any) -> tuple[Any, ...]:
            rng, own = jax.random.split(state["rng"])
            noise = jax.random.uniform(own)
            place = state["place"] + jnp.stack([actions["a"], actions["b"]])
            state = {"place": place, "step": state["step"] + 1, "rng": rng}
            over = (place[0] >= 3) | (state["step"] >= self.max_steps)
            rewards = {"a": jnp.where(place[0] >= 3, noise, -noise), "b": actions["b"]}
            if self.broken == "nan":
                rewards["b"] = jnp.where(state["step"] == 2, jnp.nan, 0.0)
            if self.broken == "wide":
                rewards["b"] = jnp.zeros(3)
            if self.broken == "grows":
                state["place"] = jnp.zeros(3)
            if self.broken == "python":
                over = bool(place[0] > 0)
            dones = {} if self.broken == "endless" else {"__all__": over}
            return self.get_obs(state), state, rewards, dones, {}

    return Corridor


@functools.cache
def walkers() -> Any:
    return as_multi_agent(corridor()(), num_envs=3)


def choose(a: list[Any], b: int = 1) -> Tensor:
    """Return rows for choices of a (time, env) or (env,), and one of b."""
    choice = torch.tensor(a)
    return one_hot(torch.stack([choice, torch.full_like(choice, b)], dim=-1), 3).float()


def actions(env: MultiAgentVectorEnv, steps: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (steps, env.num_envs, env.num_agents, env.act_dim)
    return 1.4 * torch.rand(shape, generator=generator) - 0.2


def play(env: MultiAgentVectorEnv, given: Tensor) -> list[Tensor]:
    steps = iter(given)
    window = env.rollout(lambda obs: next(steps), len(given))
    return [window.obs, window.reward, window.next_obs, window.terminated, window.truncated]


def equal(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


class ByHand:
    """One copy of a raw env, stepped with its own keys."""

    def __init__(self, env: Any, seed: int, index: int) -> None:
        import jax

        self.env, self.raw, self.split = env, env.raw, jax.random.split
        # to one type of number each, or else JAX would compile the step anew for each
        self.keep = jax.jit(lambda state: jax.tree.map(lambda x: x.astype(x.dtype), state))
        self.key = jax.random.PRNGKey(np.uint32(env_seeds(seed, env.num_envs)[index]))
        self.start()

    def own_key(self) -> Any:
        self.key, own = self.split(self.key)
        return own

    def start(self) -> None:
        obs, state = self.raw.reset(self.own_key())
        self.obs, self.state = self.rows(obs, state), self.keep(state)

    def rows(self, obs: Any, state: Any) -> Any:
        padded = np.zeros((self.env.num_agents, self.env.obs_dim), np.float32)
        for row, agent in zip(padded, self.raw.agents, strict=True):
            row[: obs[agent].size] = obs[agent]
            if self.env.action_mask_slice is not None:
                row[self.env.action_mask_slice] = self.raw.get_avail_actions(state)[agent]
            if self.env.global_state_slice is not None:
                row[self.env.global_state_slice] = obs["world_state"]
        return padded

    def step(self, action: Tensor) -> tuple[Any, Any, bool, bool]:
        smax = "SMAX" in type(self.raw).__name__
        there = self.raw.get_avail_actions(self.state) if smax else {}
        given = {}
        for index, agent in enumerate(self.raw.agents):
            own = action[index, : int(self.env.valid_action_dims[index].sum())]
            own = (own if self.env.discrete_actions else own.clamp(0, 1)).numpy()
            given[agent] = own.argmax() if self.env.discrete_actions else own
            if smax:
                given[agent] = np.where(np.asarray(there[agent]) > 0, own, -1).argmax()
        own_key = self.own_key()
        obs, state, reward, dones, _ = self.raw.step_env(own_key, self.state, given)
        final = self.obs = self.rows(obs, state)
        self.state = self.keep(state)
        over = bool(dones["__all__"])
        decided = False
        if smax:
            alive = np.asarray(self.state.state.unit_alive).reshape(2, 3)
            decided = over and not alive.any(1).all()
        if over:
            self.start()
        return final, [float(reward[agent]) for agent in self.raw.agents], over, decided


@pytest.mark.parametrize("name", [SPREAD, LISTENER, SMAX])
def test_values_and_ends_are_the_raw_envs(name):
    env = made(name)
    obs, _ = env.reset(seed=3)
    index, copy = 4, ByHand(env, 3, 4)
    ends = torch.zeros(2, dtype=torch.long)
    for action in actions(env, 60 if name == SMAX else 30):
        np.testing.assert_allclose(obs[index], copy.obs, rtol=1e-5, atol=1e-6)
        obs, reward, terminated, truncated, info = env.step(action)
        final, earned, over, decided = copy.step(action[index])
        np.testing.assert_allclose(info["final_obs"][index], final, rtol=1e-5, atol=1e-6)
        assert reward[index].tolist() == pytest.approx(earned, rel=1e-5, abs=1e-6)
        assert (terminated[index], truncated[index]) == (decided, over and not decided)
        assert bool(info["_final_obs"][index]) == over
        ends += torch.tensor([terminated[index], truncated[index]])
    assert (ends > 0).tolist() == ([True, False] if name == SMAX else [False, True])


def test_dead_units_of_smax_are_masked():
    """Whoever has no unit left, by the raw env's own state; a saved state brings it back."""
    env = made(SMAX)
    env.reset(seed=0)
    seen, before, after = 0, None, None
    for action in actions(env, 60):
        alive = torch.from_numpy(np.asarray(env._state.state.unit_alive).copy())[:, :3]
        mask = torch.ones(ENVS, 3, dtype=torch.bool) if env.alive_mask is None else env.alive_mask
        assert torch.equal(mask, alive)
        seen += int((~alive).sum())
        if seen and before is None:
            before, after = env.state(), mask.clone()
        env.step(action)
    assert before is not None
    env.set_state(before)
    assert torch.equal(env.alive_mask, after)


def test_tensors_share_their_memory_with_jax():
    from diffsurrogate.wrappers.jaxmarl.batch import to_jax

    env = made(LISTENER)
    assert env.observation_mask.sum(1).tolist() == [3, 11]
    assert env.valid_action_dims.sum(1).tolist() == [3, 5]
    assert env.discrete_actions and not made(SPREAD).discrete_actions
    obs, _ = env.reset(seed=0)
    assert obs.data_ptr() == env._obs.unsafe_buffer_pointer()
    obs, _, _, _, info = env.step(actions(env, 1)[0])
    assert info["final_obs"].data_ptr() == obs.data_ptr() == env._obs.unsafe_buffer_pointer()
    action = torch.rand(ENVS, 3, 5)
    assert to_jax(action).unsafe_buffer_pointer() == action.data_ptr()


def test_an_end_by_time_alone_is_a_truncation_alone():
    env = walkers()
    assert env.max_steps == 5
    start, _ = env.reset(seed=2)
    walks = [[1, 0, 0], [1, 0, 0], [1, 0, 1], [0, 0, 1], [0, 0, 1]]  # thrice is beyond 3
    obs, reward, final, terminated, truncated = play(env, choose(walks))
    assert terminated.nonzero().tolist() == [[2, 0], [4, 2]]
    assert truncated.nonzero().tolist() == [[4, 1], [4, 2]]
    assert final[2, 0, 0, 0] >= 3 and final[2, 0, 1, 1:3].tolist() == [3, -3]
    assert obs[3, 0, 0, 0] < 1 and obs[3, 0, 1, 1:3].tolist() == [0, 0]  # started anew, alone
    assert (obs[:, 1, 0, 0] == start[1, 0, 0]).all()
    assert (reward[:, :, 0] > 0).nonzero().tolist() == [[2, 0], [4, 2]]
    assert env.current_obs[:, 1, 1].tolist() == [2, 0, 0]
    assert as_multi_agent(corridor()(), num_envs=3, max_steps=3).max_steps == 3


def test_which_choices_are_open_is_observed_and_closed_ones_are_replaced():
    env = walkers()
    obs, info = env.reset(seed=2)
    assert (env.action_mask_slice, env.obs_dim, info) == (slice(3, 6), 6, {})
    assert obs[..., 3:].tolist() == [[[1, 1, 0], [0, 1, 1]]] * 3
    assert env.observation_mask.tolist() == [[True, False, False, True, True, False], [True] * 6]
    after, reward, *_ = env.step(choose([2, 0, 0], b=0))  # 2 is padding of a's: its first
    assert reward[:, 1].tolist() == [1, 1, 1]
    assert after[:, 0, 0].tolist() == obs[:, 0, 0].tolist()
    assert after[:, 1, 3:].all()
    assert env.step(choose([0, 0, 0], b=0))[1][:, 1].tolist() == [0, 0, 0]
    smax = made(SMAX)
    obs, _ = smax.reset(seed=0)
    assert obs[..., smax.action_mask_slice].shape == (ENVS, 3, 8)
    assert (obs[..., smax.action_mask_slice].sum(-1) == 5).all()  # nobody is near enough to shoot


def saved(env: MultiAgentVectorEnv) -> Any:
    torch.save(env.state(), file := io.BytesIO())
    return torch.load(io.BytesIO(file.getvalue()), weights_only=True)


def test_a_state_goes_on_in_an_env_made_anew_with_keys_inside_and_in_no_other():
    env, anew = walkers(), as_multi_agent(corridor()(), num_envs=3)
    env.reset(seed=2)
    given = choose([[1, 0, 0], [0, 1, 0]] * 4)
    play(env, given[:3])
    state = saved(env)
    anew.set_state(state)
    assert equal(play(env, given), play(anew, given))
    later = as_multi_agent(corridor()(), num_envs=3)
    later.set_state(state)
    before, mask = later.current_obs, torch.tensor([False, True, False])
    assert torch.equal(later.reset(options={"reset_mask": mask})[0][~mask], before[~mask])
    state["simulator"]["state"][0] = torch.zeros(3, 5)
    with pytest.raises(UsageError, match="not one of 3 copies of this Corridor"):
        anew.set_state(state)
    with pytest.raises(UsageError, match="this env of"):
        as_multi_agent(corridor()(), num_envs=4).set_state(state)


def test_time_limits_and_the_number_of_agents_can_be_told():
    assert made(SPREAD).max_steps == 26  # JaxMARL makes one step more than its max_steps
    assert made(SMAX).max_steps == 101
    env = make(f"jaxmarl/{SPREAD}", num_envs=2, max_steps=7, n_agents=4)
    assert (env.max_steps, env.raw.max_steps, env.num_agents) == (7, 7, 4)
    riddle = make("jaxmarl/switch_riddle", num_envs=2, max_steps=4)  # which takes none
    assert (riddle.max_steps, riddle.raw.max_steps) == (4, 6)
    coins = make("jaxmarl/coin_game", num_envs=2, num_inner_steps=3, num_outer_steps=2)
    assert coins.max_steps == 6
    kitchen = make("jaxmarl/overcooked_v2-cramped_room", num_envs=2)
    assert (kitchen.max_steps, kitchen.obs_dim) == (400, 4 * 5 * 30)


def test_ids_are_those_that_run():
    ids = known_ids("jaxmarl")
    assert ids is not None
    assert {f"jaxmarl/{name}" for name in (SPREAD, "SMAX-2s3z", "hanabi")} <= set(ids)
    assert not [name for name in ids if "storm" in name or "ant_4x2" in name]


def test_envs_that_do_not_fit_are_refused():
    from jaxmarl.environments import spaces

    for options, advice in [
        ({"a": spaces.MultiDiscrete([2, 3])}, "agent 'a' are a MultiDiscrete, which is not"),
        ({"a": spaces.Box(0, 1, (2,))}, "some agents have Discrete actions and others a Box"),
        ({"broken": "lonely"}, r"no observation for \['b'\]"),
        ({"broken": "wide"}, r"rewards of 'b' have shape \(3,\); one number is needed"),
        ({"broken": "grows"}, r"state after step_env\(\) is not shaped as that after reset\(\)"),
        ({"broken": "python"}, r"step_env\(\) cannot be compiled by JAX: TracerBoolConversion"),
        ({"broken": "endless"}, "dones of step_env.. have no entry for '__all__'"),
    ]:
        with pytest.raises(UsageError, match=f"Corridor: .*{advice}"):
            as_multi_agent(corridor()(**options), num_envs=2)


def test_a_number_that_is_not_finite_is_named():
    env = as_multi_agent(corridor()(broken="nan"), num_envs=2)
    env.reset()
    env.step(choose([0, 0]))
    with pytest.raises(UsageError, match="Corridor: the reward of env 0 at step 2 of its episode"):
        env.step(choose([0, 0]))


def test_a_device_that_jax_cannot_reach_is_refused():
    from diffsurrogate.wrappers.jaxmarl.batch import jax_device

    with pytest.raises(UsageError, match=r"JAX cannot reach .cuda:99.*use device=.cpu"):
        jax_device(torch.device("cuda:99"))


def test_importing_jaxmarl_prints_nothing_and_leaves_the_streams(monkeypatch, capsys):
    from diffsurrogate.wrappers.jaxmarl import library

    streams = sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__
    with library._undisturbed():
        print("found no env")
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
        print("found another")
    assert (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__) == streams
    assert capsys.readouterr().out == ""
    monkeypatch.setitem(sys.modules, "jaxmarl", None)
    spec = importlib.util.spec_from_file_location("copy_of_library", Path(library.__file__))
    assert spec is not None and spec.loader is not None
    with pytest.raises(UsageError, match=r'pip install "diffsurrogate\[jaxmarl\]"'):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))

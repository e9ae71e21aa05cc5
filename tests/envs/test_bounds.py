"""What an env declares its observations to lie within, it is held to."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor
from toys.adder import ACT, AGENTS, ENVS, OBS, ZERO, Savable

from diffsurrogate.envs.bounds import Bounds
from diffsurrogate.envs.env import MultiAgentVectorEnv
from diffsurrogate.envs.registry import as_multi_agent
from diffsurrogate.errors import UsageError
from diffsurrogate.wrappers.external.spaces import bounds_of
from diffsurrogate.wrappers.learned import LearnedDiffWrapper

INF = float("inf")


class Fenced(Savable):
    """Declares feature j of agent i to lie within ±(10 i + j + 1)."""

    def __init__(self, *, max_steps: int | None = None, check_bounds: bool = True) -> None:
        limit = 10 * torch.arange(AGENTS)[:, None] + torch.arange(OBS) + 1.0
        MultiAgentVectorEnv.__init__(
            self,
            num_envs=ENVS,
            agents=["a", "b", "c"],
            observation_space=spaces.Box(-limit.numpy(), limit.numpy(), dtype=np.float32),
            action_space=spaces.Box(-1, 1, (AGENTS, ACT), np.float32),
            max_steps=max_steps,
            check_bounds=check_bounds,
        )
        self.goal, self.generator = INF, torch.Generator()
        self.obs = torch.zeros(ENVS, AGENTS, OBS)
        self.spawns_at: Tensor | None = None

    def _draw(self) -> Tensor:
        return torch.zeros(ENVS, AGENTS, OBS) if self.spawns_at is None else self.spawns_at


def at(env: int, agent: int, feature: int, value: float) -> Tensor:
    obs = torch.zeros(ENVS, AGENTS, OBS)
    obs[env, agent, feature] = value
    return obs


def test_a_slack_is_left_and_infinite_bounds_are_none():
    low, high = [-1.0, 0.0, -np.inf, -np.inf, -3.4028235e38], [1.0, np.inf, 100.0, np.inf, 3.4e38]
    bounds = bounds_of(spaces.Box(np.float32(low), np.float32(high)))
    assert bounds is not None
    rows = np.zeros((2, 5), np.float32)
    for entry, inside, outside in [
        (0, (-1.0019, 1.0019), (-1.0021, 1.0021)),  # a thousandth of 2
        (1, (-9e-7, 1e30), (-1.1e-6,)),
        (2, (-1e30, 100.09), (100.11,)),  # a thousandth of 100
        (3, (-1e30, 1e30), ()),
        (4, (-3.4e38, 3.4e38), ()),
    ]:
        for value in (*inside, *outside):
            rows[1, entry] = value
            assert bounds.first_outside(rows) == ((1, entry) if value in outside else None)
            assert bounds.holds(torch.from_numpy(rows)) == (value in inside)
            rows[1, entry] = 0
    assert bounds_of(spaces.Box(-np.inf, np.inf, (3,))) is None
    assert bounds_of(spaces.Box(0, 255, (4, 4, 3), np.uint8)) is None
    assert bounds_of(spaces.Box(0, 200, (4,), np.uint8)) is not None
    assert Bounds.of(spaces.Box(-np.inf, 0, (3,), np.float32)) is not None


def test_a_subclass_is_held_to_its_box():
    env = Fenced()
    env.reset(seed=0)
    env.obs = at(4, 2, 3, 23.9)  # of ±24
    env.step(ZERO)
    assert env.current_obs[4, 2, 3] == 23.9
    env.obs = at(4, 2, 3, 24.1)
    with pytest.raises(UsageError) as error:
        env.step(ZERO)
    assert str(error.value) == (
        "Fenced: the observation of env 4 at step 2 of its episode is outside of its space: 24.1 "
        "at [2, 3], where the space has [-24, 24]; widen the observation space, or pass "
        "check_bounds=False"
    )


def test_a_start_is_too():
    env = Fenced(max_steps=2)
    env.spawns_at = at(5, 1, 0, -11.2)
    with pytest.raises(UsageError, match=r"of env 5 at the reset is outside .* -11.2 at \[1, 0\]"):
        env.reset()
    env.spawns_at = None
    env.reset()
    env.step(ZERO)
    env.spawns_at = at(3, 0, 0, 1.1)
    with pytest.raises(UsageError, match=r"env 3 at the reset after step 2 .*\[-1, 1\]"):
        env.step(ZERO)
    some = torch.zeros(ENVS, dtype=torch.bool)
    some[3] = True
    env = Fenced()
    env.reset()
    env.spawns_at = at(3, 0, 0, 1.1)
    with pytest.raises(UsageError, match=r"env 3 at the reset after step 0 .*\[-1, 1\]"):
        env.reset(options={"reset_mask": some})


def test_the_check_can_be_left_out():
    env = Fenced(check_bounds=False)
    env.spawns_at = at(5, 1, 0, -11.2)
    LearnedDiffWrapper(env).reset()
    env.obs = at(4, 2, 3, 1e6)
    env.step(ZERO)
    assert env.current_obs[4, 2, 3] == 1e6


def test_jaxmarls_are_held_to_theirs():
    jaxmarl = pytest.importorskip("jaxmarl")
    from jaxmarl.environments import spaces as theirs

    raw = jaxmarl.make("MPE_simple_spread_v3", action_type="Continuous")
    raw.observation_spaces["agent_1"] = theirs.Box(-0.01, 0.01, (18,))
    with pytest.raises(UsageError, match=r"env [01] at the reset is outside .* at \[1, \d+\], whe"):
        as_multi_agent(raw, num_envs=2).reset(seed=0)
    env = as_multi_agent(raw, num_envs=2, check_bounds=False)
    assert env.reset(seed=0)[0][:, 1].abs().max() > 0.01


def test_the_number_outside_is_named_by_its_place_in_a_nested_space():
    arm = spaces.Dict({"pose": spaces.Box(-1, 1, (2, 3)), "held": spaces.Discrete(4)})
    space = spaces.Dict({"arms": spaces.Tuple([arm, arm]), "heat": spaces.Box(0, 1, ())})
    bounds = bounds_of(space)
    places = {10 + 2: "['arms'][1]['held'][2]", 10 + 9: "['arms'][1]['pose'][1, 2]", 20: "['heat']"}
    for entry, place in places.items():
        row = np.zeros(21, np.float32)
        row[entry] = 3
        assert f"3 at {place}, where" in bounds.complaint(row)

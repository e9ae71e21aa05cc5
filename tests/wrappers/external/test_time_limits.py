"""The time limit of another library's env, and the one asked for."""

import gymnasium
import pytest
from mpe2 import simple_spread_v3

from diffsurrogate.envs.registry import as_multi_agent, make
from diffsurrogate.errors import UsageError

MADE = {
    "Gymnasium": (lambda n: as_multi_agent(gymnasium.make("Pendulum-v1"), max_steps=n), 200),
    "PettingZoo": (lambda n: as_multi_agent(simple_spread_v3.parallel_env(), max_steps=n), 25),
    "MaMuJoCo": (lambda n: make("mamujoco/HalfCheetah-6x1", num_envs=2, max_steps=n), 1000),
}


@pytest.mark.parametrize("library", MADE)
def test_a_time_limit_is_shortened_and_never_kept_in_silence(library):
    made, own = MADE[library]
    assert made(None).max_steps == own
    assert made(own).max_steps == own
    assert made(own - 1).max_steps == own - 1
    with pytest.raises(UsageError, match=f"max_steps is {own + 1}, but .* after {own} steps"):
        made(own + 1)

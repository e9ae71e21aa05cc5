"""Windows: cut into segments, taken in part, summed up, and refused where they do not fit."""

from dataclasses import replace

import pytest
import torch

from diffsurrogate.envs.window import Window, check_window
from diffsurrogate.errors import UsageError

TIME, ENVS, AGENTS, OBS, ACT = 6, 5, 3, 4, 2


def numbered() -> Window:
    """Rewards 100 t + 10 env + agent; env 1 terminates at step 2, env 3 is cut at 2 and 4."""
    time, env, agent = (torch.arange(float(n)) for n in (TIME, ENVS, AGENTS))
    reward = 100 * time[:, None, None] + 10 * env[:, None] + agent
    terminated, truncated = torch.zeros(2, TIME, ENVS, dtype=torch.bool)
    terminated[2, 1] = True
    truncated[[2, 4], 3] = True
    return Window(
        obs=reward[..., None].expand(-1, -1, -1, OBS),
        action=torch.zeros(TIME, ENVS, AGENTS, ACT),
        reward=reward,
        next_obs=torch.zeros(TIME, ENVS, AGENTS, OBS),
        terminated=terminated,
        truncated=truncated,
        alive_mask=reward > 7,
    )


@pytest.mark.parametrize("length", [1, 2, 3, 6])
def test_segments_are_side_by_side_with_all_that_a_window_has(length):
    window, cut = numbered(), numbered().segments(length)
    count = TIME // length
    assert (cut.horizon, cut.reward.shape) == (length, (length, count * ENVS, AGENTS))
    for part in range(count):
        steps, envs = slice(part * length, (part + 1) * length), slice(part * ENVS, None)
        for name in ("obs", "reward", "terminated", "truncated", "alive_mask"):
            values = getattr(cut, name)[:, envs][:, :ENVS]
            assert torch.equal(values, getattr(window, name)[steps]), name
    assert cut.value_obs is None


def test_joined_windows_follow_each_other_in_time():
    window = numbered()
    parts = [window.each(lambda x, t=t: x[t : t + 2]) for t in range(0, TIME, 2)]
    joined = Window.join(parts)
    for name in ("obs", "action", "reward", "next_obs", "terminated", "truncated", "alive_mask"):
        assert torch.equal(getattr(joined, name), getattr(window, name)), name
    assert joined.value_obs is None


def test_a_window_without_an_alive_mask_joins_one_that_has_it():
    window = numbered()
    joined = Window.join([replace(window, alive_mask=None), window])
    assert joined.alive_mask[:TIME].all()
    assert torch.equal(joined.alive_mask[TIME:], window.alive_mask)
    unmasked = replace(window, alive_mask=None)
    assert Window.join([unmasked, unmasked]).alive_mask is None


def test_chosen_envs_come_in_the_order_asked_for():
    window, some = numbered(), numbered().chosen(torch.tensor([3, 0]))
    assert some.reward[1, :, 2].tolist() == [132.0, 102.0]
    assert torch.equal(some.ended, window.ended[:, [3, 0]])
    assert some.alive_mask is not None
    assert some.alive_mask[0].tolist() == [[True] * 3, [False] * 3]


def test_the_summary_counts_episodes_that_ended():
    assert numbered().summary() == {
        "reward": pytest.approx(250 + 20 + 1),
        "episodes_ended": 3.0,
        "episodes_terminated": 1.0,
    }


def test_what_a_model_cannot_learn_from_is_refused():
    check_window(numbered(), (AGENTS, OBS, ACT))
    with pytest.raises(UsageError, match=r"cannot fit a dict; .*windows_from_minari"):
        check_window({"obs": 1}, (AGENTS, OBS, ACT))
    for other in ((AGENTS + 1, OBS, ACT), (AGENTS, OBS + 1, ACT), (AGENTS, OBS, ACT + 1)):
        with pytest.raises(UsageError, match=r"\(3, 4, 2\), this env .*same kind of env"):
            check_window(numbered(), other)

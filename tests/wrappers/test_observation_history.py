"""Earlier observations beside the current one: what is in a row, where it begins, gradients."""

import pytest
import torch
from toys.masked import CHOICES, SEEN, MaskedReach
from toys.reach import ACT, AGENTS, ENVS, OBS, Reach
from toys.trainers import plain_reach

from diffsurrogate import SHAC, LearnedDiffWrapper
from diffsurrogate.envs.env import MultiAgentVectorEnv
from diffsurrogate.errors import UsageError
from diffsurrogate.wrappers.observation_history import ObservationHistory

STEPS = 3


def actions(env: MultiAgentVectorEnv, count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return 3 * torch.rand(count, *env.single_action_space.shape, generator=generator) - 1.5


def shown(seen: list[torch.Tensor], done: list[torch.Tensor]) -> torch.Tensor:
    """One env's row by hand, from what was seen and done since its episode began."""
    nothing = torch.zeros(AGENTS, ACT)
    row = [seen[-1]]
    for back in range(1, STEPS):
        known = back < len(seen)
        row += [seen[-1 - back], done[-back]] if known else [seen[0], nothing]
    return torch.cat(row, -1)


def test_rows_by_hand_over_ends_of_episodes():
    """Executed actions, in their box; the end of an episode is seen with its own past."""
    plain, env = plain_reach(), ObservationHistory(plain_reach(), steps=STEPS)
    assert env.obs_dim == OBS + (STEPS - 1) * (OBS + ACT)
    for each in (plain, env):
        each.reset(seed=5)
        each.randomise_episode_phase(torch.Generator().manual_seed(1))
    seen = [[plain.current_obs[index]] for index in range(ENVS)]
    done: list[list[torch.Tensor]] = [[] for _ in range(ENVS)]
    ended = 0
    for action in actions(env, 20).unsqueeze(1).expand(-1, ENVS, -1, -1):
        obs, reward, *_, info = plain.step(action)
        found, earned, *_, told = env.step(action)
        assert torch.equal(earned, reward) and torch.equal(told["_final_obs"], info["_final_obs"])
        for index in range(ENVS):
            seen[index].append(info["final_obs"][index])
            done[index].append(action[index].clamp(-1, 1))
            last = shown(seen[index], done[index])
            assert torch.equal(told["final_obs"][index], last)
            if info["_final_obs"][index]:
                seen[index], done[index] = [obs[index]], []
                ended += 1
            assert torch.equal(found[index], shown(seen[index], done[index]))
        assert torch.equal(env.current_obs, found)
    assert ended > 10


def test_some_envs_can_be_reset_and_states_restored():
    env = ObservationHistory(plain_reach(), steps=STEPS)
    env.reset(seed=1)
    first, *others = actions(env, 4).unsqueeze(1).expand(-1, ENVS, -1, -1)
    env.step(first)
    before = env.current_obs
    mask = torch.arange(ENVS) % 2 == 0
    obs, _ = env.reset(options={"reset_mask": mask})
    assert torch.equal(obs[~mask], before[~mask])
    assert not obs[mask][..., OBS + OBS : OBS + OBS + ACT].any()  # no action before
    assert torch.equal(obs[mask][..., OBS : 2 * OBS], obs[mask][..., :OBS])
    state = env.state()
    rows = []
    for _ in range(2):
        env.set_state(state)
        rows.append([env.step(action)[0] for action in others])
    assert all(map(torch.equal, *rows))


def test_masks_and_global_states_are_told_once():
    env = ObservationHistory(MaskedReach(), steps=2)
    inner = env.env
    assert env.obs_dim == inner.obs_dim + SEEN + inner.act_dim
    assert env.action_mask_slice == inner.action_mask_slice
    assert env.global_state_slice == inner.global_state_slice
    env.reset(seed=1)
    wished = torch.eye(CHOICES)[1].expand(ENVS, AGENTS, -1).contiguous()
    taken = env.env.apply_action_mask(wished)
    assert (taken != wished).any()  # closed for some
    assert torch.equal(env.step(wished)[-1]["final_obs"][..., -CHOICES:], taken)
    SHAC(LearnedDiffWrapper(env), seed=0).learn(2 * 32 * ENVS)


def test_the_simulators_own_gradient_passes_through_the_history():
    env = ObservationHistory(Reach(), steps=2)
    env.reset(seed=1)
    action = torch.full((ENVS, AGENTS, ACT), 0.3, requires_grad=True)
    env.step(action)
    obs, *_ = env.step(0.5 * action.detach())
    before, then = obs[..., OBS : 2 * OBS], obs[..., 2 * OBS :]
    (slope,) = torch.autograd.grad(before[..., :ACT].sum(), action)
    assert torch.equal(slope, torch.full_like(slope, 0.5))
    assert torch.equal(then, torch.full_like(then, 0.15))
    env.detach()
    assert not env.current_obs.requires_grad


def test_what_cannot_have_a_history_is_refused():
    with pytest.raises(UsageError, match="at least 2"):
        ObservationHistory(plain_reach(), steps=1)
    with pytest.raises(UsageError, match="the other way round"):
        ObservationHistory(LearnedDiffWrapper(plain_reach()), steps=2)

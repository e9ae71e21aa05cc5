"""Pieces of a window: every step once, with the noise it was taken with."""

import pytest
import torch

from diffsurrogate.data.segments import minibatches
from diffsurrogate.envs.window import Window

HORIZON, ENVS, AGENTS, OBS, ACT = 12, 7, 3, 5, 2


def window() -> Window:
    """Every number tells its step and env: 100 * step + env."""
    label = 100.0 * torch.arange(HORIZON)[:, None] + torch.arange(ENVS)
    obs = label[..., None, None].expand(-1, -1, AGENTS, OBS)
    return Window(
        obs=obs,
        action=obs[..., :ACT],
        reward=obs[..., 0],
        next_obs=obs + 100,
        terminated=label == 307,
        truncated=label == 506,
    )


@pytest.mark.parametrize(("length", "count"), [(12, 1), (12, 3), (4, 4), (1, 5), (6, 14)])
def test_every_step_comes_once_with_its_noise(length, count):
    whole = window()
    noise = whole.action + 0.5
    parts = list(
        minibatches(
            whole, noise, length=length, count=count, generator=torch.Generator().manual_seed(0)
        )
    )
    assert len(parts) == count
    seen = torch.cat([part.reward[..., 0].flatten() for part, _ in parts])
    assert torch.equal(seen.sort().values, whole.reward[..., 0].flatten().sort().values)
    for part, part_noise in parts:
        assert part.obs.shape[0] == length
        assert torch.equal(part_noise, part.action + 0.5)
        assert torch.equal(part.next_obs, part.obs + 100)
        assert torch.equal(part.truncated, part.reward[..., 0] == 506)
        steps = part.reward[..., 0]
        assert torch.equal(steps[1:] - steps[:-1], torch.full_like(steps[1:], 100))


def test_the_order_comes_from_the_generator():
    def first(seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        whole = window()
        part, _ = next(minibatches(whole, whole.action, length=4, count=3, generator=generator))
        return part.reward

    assert torch.equal(first(0), first(0))
    assert not torch.equal(first(0), first(1))

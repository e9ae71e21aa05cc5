"""The step model's eyes, and what it lets a gradient through."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from diffsurrogate.nets.config import JointNetConfig, SharedNetConfig
from diffsurrogate.surrogates.step_model import StepModel, StepModelConfig, fourier_features

AGENTS, OBS, ACT = 3, 5, 2
NET = SharedNetConfig(hidden=(8,), activation="silu")


def test_fourier_features_are_sines_and_cosines_of_doubled_frequencies():
    x = torch.tensor([[0.3, -1.7]])
    angles = [0.3, -1.7, 0.6, -3.4, 1.2, -6.8]
    expected = torch.tensor(
        [[*angles[:2], *torch.tensor(angles).sin(), *torch.tensor(angles).cos()]]
    )
    torch.testing.assert_close(fourier_features(x, 3), expected)
    assert fourier_features(x, 0) is x


def test_fourier_features_make_fine_differences_learnable():
    """A step of a hundredth of a deviation: the plain network smooths it over."""
    generator = torch.Generator().manual_seed(0)
    obs = torch.rand(1024, 1, 1, generator=generator) * 3.4 - 1.7
    action = torch.zeros(1024, 1, 1)
    next_obs = obs + torch.where((8 * obs).sin() > 0, 0.1, -0.1)
    errors = []
    for num_frequencies in (0, 5):
        torch.manual_seed(0)
        net = JointNetConfig(hidden=(32, 32), activation="silu")
        model = StepModel(StepModelConfig(net=net, num_frequencies=num_frequencies), 1, 1, 1)
        for statistics, data in (
            (model.obs_statistics, obs),
            (model.change_statistics, next_obs - obs),
        ):
            statistics.update(data)
            statistics.snapshot()
        optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _ in range(300):
            loss = model.error(obs, action, next_obs, torch.ones(1, 1))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        errors.append(loss.item())
    assert errors[1] < 0.3 * errors[0]


def test_the_gradient_is_attenuated_by_the_explained_variance():
    """Of entry 2 half the mean squared change is explained, so that a quarter of the learned slope
    stays; and, as values differ by ten times as much, .995 of the next value: .99 of the slope that
    comes of the entry's own past. Values do not change."""
    config = StepModelConfig(net=NET)
    model = StepModel(config, AGENTS, OBS, ACT)
    nn.init.normal_(model.net.head.weight)
    obs = torch.randn(7, AGENTS, OBS, requires_grad=True)
    action = torch.randn(7, AGENTS, ACT, requires_grad=True)

    def slopes():
        return torch.autograd.grad(model(obs, action)[..., 0, 2].sum(), (obs, action))

    free, value = slopes(), model(obs, action)
    next_obs = torch.tensor([-10.0, 10.0]).view(2, 1, 1).expand(2, AGENTS, OBS)
    predicted = next_obs.clone()
    predicted[:, 0, 2] += 0.5**0.5
    model.attenuation.update(
        predicted, next_obs - 1.0, next_obs, torch.ones_like(next_obs, dtype=torch.bool)
    )
    assert model.attenuation.of_change[0, 2] == pytest.approx(0.5, abs=1e-4)
    assert model.attenuation.of_value[0, 2] == pytest.approx(0.995, abs=1e-4)
    attenuated = slopes()
    torch.testing.assert_close(attenuated[1], free[1] / 4, rtol=1e-3, atol=1e-6)
    stays = torch.zeros_like(obs)
    stays[..., 0, 2] = 1.0
    expected = 0.995**2 * stays + (free[0] - stays) / 4
    torch.testing.assert_close(attenuated[0], expected, rtol=1e-3, atol=1e-6)
    assert torch.equal(model(obs, action), value)
    model.config = replace(config, attenuate=False)
    torch.testing.assert_close(slopes()[0], free[0])


def test_rare_jumps_bend_neither_units_nor_slopes():
    """One in two hundred steps teleports entry 0 of agent 1: the others are learned as without."""
    generator = torch.Generator().manual_seed(0)
    obs = torch.rand(4000, AGENTS, OBS, generator=generator) * 2 - 1
    action = torch.rand(4000, AGENTS, ACT, generator=generator) * 2 - 1
    next_obs = obs + 0.1 * action[..., :1]
    jumps = next_obs.clone()
    jumps[::200, 1, 0] += 5.0
    config, found = StepModelConfig(net=NET), []
    keeps_all = StepModel(replace(config, leave_out_jumps=False), AGENTS, OBS, ACT)
    keeps_all.update_normaliser(obs, jumps, lambda count: {})
    assert keeps_all._no_jumps(jumps - obs).all()
    for after in (next_obs, jumps):
        model = StepModel(config, AGENTS, OBS, ACT)
        model.update_normaliser(obs, after, lambda count: {})
        kept = model._no_jumps(after - obs)
        assert (~kept).nonzero().tolist() == (after - next_obs > 1).nonzero().tolist()
        model.attenuation.update(next_obs, obs, after, kept)
        mask = torch.ones(AGENTS, OBS)
        loss = model.error(obs, action, after, mask)
        found.append((model.change_scale, model.attenuation.of_change, loss.detach()))
    for usual, with_jumps in zip(*found, strict=True):
        torch.testing.assert_close(with_jumps, usual, rtol=0.02, atol=0)

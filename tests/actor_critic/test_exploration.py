"""Exploration noise: unit variance at each step, and the correlation that was promised."""

import pytest
import torch
from torch import Tensor

from diffsurrogate.actor_critic.exploration import NoiseConfig, NoiseProcess, resolve_noise
from diffsurrogate.errors import UsageError

SHAPE = (1009, 3, 2)  # 6054 streams: a variance is known to 2 %, a correlation to 1.3 %


def process(kind: str, shape: tuple[int, ...] = SHAPE, seed: int = 0, **kwargs: object):
    config = NoiseConfig(kind=kind, **kwargs)
    return NoiseProcess(config, shape, torch.Generator().manual_seed(seed))


def windows(noise: NoiseProcess, *horizons: int) -> Tensor:
    return torch.cat([noise.draw(horizon) for horizon in horizons])


def correlation(noise: Tensor, lag: int) -> float:
    """Of steps `lag` apart, at any age; mean 0 and variance 1 are known."""
    return float((noise[lag:] * noise[:-lag]).mean())


@pytest.mark.parametrize("kind", ["white", "ou"])
@pytest.mark.parametrize("horizon", [1, 2, 16, 17])
def test_every_step_has_mean_0_and_variance_1(kind, horizon):
    noise = windows(process(kind), horizon, horizon)
    assert noise.shape == (2 * horizon, *SHAPE)
    assert noise.mean((1, 2, 3)).abs().max() < 0.06
    assert (noise.var((1, 2, 3)) - 1).abs().max() < 0.1


@pytest.mark.parametrize(("kind", "rho"), [("white", 0.5), ("ou", 0.0)])
def test_white_noise_has_no_memory(kind, rho):
    noise = windows(process(kind, correlation=rho), 16, 16)
    assert all(abs(correlation(noise, lag)) < 0.02 for lag in (1, 2, 5))
    assert (process(kind).draw_with_state(3)[1] is None) == (kind == "white")


def test_ou_noise_forgets_at_the_rate_given_also_over_borders():
    noise = windows(process("ou", correlation=0.8), 5, 5, 5)
    for lag in (1, 2, 5):
        for start in range(15 - lag):
            pair = float((noise[start] * noise[start + lag]).mean())
            assert pair == pytest.approx(0.8**lag, abs=0.06)


# --- densities -----------------------------------------------------------------------------------


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
def test_step_by_step_densities_make_up_the_joint_one_also_over_borders(rho):
    """Steps i and j correlate by ρ^|i-j|: 9 steps, drawn as windows of 5 and 4."""
    noise = process("ou", (7, 3, 2), correlation=rho)
    windows, log_prob = [], torch.zeros(7, 3, 2)
    for horizon in (5, 4):
        window, memory = noise.draw_with_state(horizon)
        assert memory is not None
        step = torch.distributions.Normal(memory.carried, memory.fresh.expand_as(window))
        log_prob += step.log_prob(window).sum(0)
        windows.append(window)
    lags = (torch.arange(9)[:, None] - torch.arange(9)).abs()
    joint = torch.distributions.MultivariateNormal(torch.zeros(9), torch.tensor(rho) ** lags)
    expected = joint.log_prob(torch.cat(windows).movedim(0, -1))
    torch.testing.assert_close(log_prob, expected, atol=1e-3, rtol=1e-4)


def test_rows_of_flat_memory_are_env_by_env_within_a_step():
    window, memory = process("ou", (7, 3, 2)).draw_with_state(5)
    assert memory is not None
    chosen = torch.tensor([0, 8, 34])  # steps 0, 1, 4 of envs 0, 1, 6
    flat = memory.flat().at(chosen)
    expected = memory.carried[[0, 1, 4], [0, 1, 6]]
    assert torch.equal(flat.carried, expected)
    assert torch.equal(flat.fresh, memory.fresh[[0, 1, 4], 0])
    assert flat.carried.shape == (3, 3, 2)
    assert window.shape == (5, 7, 3, 2)


def test_drawing_with_memory_gives_the_same_numbers():
    plain, watched = process("ou", (7, 3, 2)), process("ou", (7, 3, 2))
    for horizon in (3, 5):
        assert torch.equal(plain.draw(horizon), watched.draw_with_state(horizon)[0])


def test_automatic_noise_is_correlated_but_for_discrete_actions():
    auto = NoiseConfig(kind="auto", correlation=0.7)
    assert resolve_noise(auto, discrete=False) == NoiseConfig(kind="ou", correlation=0.7)
    assert resolve_noise(auto, discrete=True).kind == "white"
    assert resolve_noise(NoiseConfig(kind="ou"), discrete=True).kind == "ou"
    with pytest.raises(UsageError, match="resolved first"):
        process("auto")

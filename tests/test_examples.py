"""The examples run, on a smaller budget."""

import importlib.util
import math
from pathlib import Path
from types import ModuleType

import pytest
import torch

from diffsurrogate import SHAC, UsageError, check_gradients
from diffsurrogate.envs.registry import make
from diffsurrogate.wrappers.team_reward import TeamReward

ROOT = Path(__file__).parent.parent


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_quickstart():
    assert 0 <= example("quickstart").main(total_steps=8192, episodes=16) <= 1


def test_a_cold_start_makes_the_first_gradient_a_good_one():
    before, after = example("cold_start").main(windows=20, total_steps=2048)
    assert after > max(before, 0.9)


def test_the_known_reward_is_the_envs():
    pytest.importorskip("mujoco")
    module = example("known_reward")
    env = make("mujoco/HalfCheetah-v5", num_envs=5)
    env.reset(seed=0)
    window = env.collect(lambda obs: 2 * torch.rand(5, 1, 6) - 1, 30)
    error = module.ForwardSpeed()(window.obs, window.action, window.next_obs) - window.reward
    assert error.std() < 0.4 * window.reward.std()
    assert math.isfinite(module.main(total_steps=4096, eval_steps=20))


@pytest.mark.parametrize("smooth", [False, True])
def test_own_env_learns_with_and_without_gradients(smooth, capsys):
    """Standing still earns 114."""
    assert example("own_env").main(total_steps=24_576, smooth=smooth) > 140
    assert "return" in capsys.readouterr().out


def test_own_env_declares_the_gradients_that_are_right():
    module = example("own_env")
    smooth = check_gradients(module.make(num_envs=67, smooth=True, differentiable=True))
    assert module.SmoothHover.true_gradients == {"dynamics", "reward"}
    assert smooth.passed
    steps = check_gradients(module.make(num_envs=67, differentiable=True))
    assert module.Hover.true_gradients == {"dynamics"}
    assert steps.dynamics.passed
    with pytest.raises(UsageError, match="reward"):  # which it does not claim
        SHAC(module.make(num_envs=67, differentiable=True))


def test_own_env_is_thirty_lines():
    source = (ROOT / "examples" / "own_env.py").read_text()
    classes = source[source.index("class Hover") : source.index("def make")]
    assert len(classes.strip().splitlines()) <= 30


def test_team_reward_is_the_sum_over_agents_with_its_graph():
    env = make("vmas/navigation", num_envs=7, n_agents=3, seed=1, differentiable=True)
    team = TeamReward(make("vmas/navigation", num_envs=7, n_agents=3, seed=1, differentiable=True))
    action = torch.rand(7, 3, 2, requires_grad=True)
    env.reset(seed=2)
    team.reset(seed=2)
    expected, got = env.step(action)[1], team.step(action)[1]
    assert got.shape == (7,)
    assert torch.equal(got, expected.sum(-1))
    (gradient,) = torch.autograd.grad(got.sum(), action)
    assert gradient.abs().sum() > 0


@pytest.mark.slow
@pytest.mark.parametrize("smooth", [False, True])
def test_own_env_is_solved(smooth):
    """The best is about 380."""
    assert example("own_env").main(smooth=smooth) > 300

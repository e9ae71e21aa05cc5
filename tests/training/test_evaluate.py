"""Evaluation counts whole first episodes, and nothing after them."""

import jaxtyping
import pytest
import torch
from gymnasium.envs.classic_control import CartPoleEnv
from torch import Tensor

from diffsurrogate.envs.torch_env import TorchEnv, TorchState
from diffsurrogate.errors import UsageError
from diffsurrogate.training.evaluate import evaluate

ENVS, AGENTS = 7, 3


class Countdown(TorchEnv):
    """Env i ends after i + 2 steps; every step pays 1 to agent 0, 10 to agent 1, 100 to agent 2."""

    def __init__(self, max_steps: int | None = None) -> None:
        names = [f"agent_{i}" for i in range(AGENTS)]
        super().__init__(num_envs=ENVS, agents=names, obs_dim=1, act_dim=1, max_steps=max_steps)

    def spawn(self, count: int, generator: torch.Generator) -> TorchState:
        return {"left": torch.arange(count, dtype=torch.float32) + 2}

    def observe(self, state: TorchState) -> Tensor:
        return state["left"][:, None, None].expand(-1, AGENTS, 1)

    def advance(self, state: TorchState, action: Tensor) -> TorchState:
        return {"left": state["left"] - 1}

    def reward(self, state: TorchState, action: Tensor, next_state: TorchState) -> Tensor:
        return torch.tensor([1.0, 10.0, 100.0]).expand(ENVS, AGENTS)

    def terminated(self, state: TorchState) -> Tensor:
        return state["left"] <= 0

    def max_return(self) -> Tensor:
        return torch.full((ENVS,), 8.0 * 111)


def still(obs: Tensor) -> Tensor:
    return torch.zeros_like(obs)


def test_returns_are_of_the_first_episode_summed_over_agents():
    result = evaluate(still, Countdown(), steps=100)
    assert result.lengths.tolist() == [2, 3, 4, 5, 6, 7, 8]
    assert result.returns.tolist() == [111.0 * n for n in range(2, 9)]
    assert result.terminated.all()
    assert result.normalised_return == pytest.approx(5 / 8)  # mean length 5, at best 8


def test_it_prints_its_means():
    text = repr(evaluate(still, Countdown(), steps=ENVS))
    assert text.startswith(f"<Evaluation of {ENVS} episodes: ")
    assert "mean_return=" in text


def test_small_rewards_after_a_large_one_are_not_lost():
    """In float32, 2**26 + 1 is 2**26 again."""
    env = Countdown(max_steps=2)
    first = lambda s, a, n: torch.full((ENVS, AGENTS), 2.0**26).where(n["left"].max() > 6, 1.0)  # noqa: E731
    env.reward = first  # type: ignore[method-assign]
    assert evaluate(still, env).returns[1:].tolist() == [3 * (2.0**26 + 1)] * (ENVS - 1)
    assert env.episode_report()["episode_return"] == 3 * (2.0**26 + 1)


def test_what_is_cut_is_not_called_terminated():
    for result in (evaluate(still, Countdown(), steps=4), evaluate(still, Countdown(max_steps=4))):
        assert result.lengths.tolist() == [2, 3, 4, 4, 4, 4, 4]
        assert result.terminated.tolist() == [True] * 3 + [False] * 4
        assert result.summary()["terminated_share"] == pytest.approx(3 / 7)


def test_an_endless_evaluation_is_refused():
    with pytest.raises(UsageError, match="steps="):
        evaluate(still, Countdown())


def test_an_env_that_is_none_of_ours_is_refused(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(UsageError, match=r"step a CartPoleEnv; adapt it: as_multi_agent\(env\)"):
        evaluate(still, CartPoleEnv())  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"call a Countdown; .* such as agent\.predict"):
        evaluate(Countdown(), Countdown(9))  # type: ignore[arg-type]


class Breaking(Countdown):
    """Env 1 pays nan in its second step, env 4 then shows inf; their next episodes are whole."""

    def __init__(self, broken: list[int]) -> None:
        super().__init__()
        self.broken = torch.isin(torch.arange(ENVS), torch.tensor(broken))

    def observe(self, state: TorchState) -> Tensor:
        late = self.broken & (state["left"] == torch.arange(ENVS)) & (torch.arange(ENVS) == 4)
        return super().observe(state).masked_fill(late[:, None, None], torch.inf)

    def reward(self, state: TorchState, action: Tensor, next_state: TorchState) -> Tensor:
        late = self.broken & (next_state["left"] == torch.arange(ENVS))
        late &= torch.arange(ENVS) != 4
        return super().reward(state, action, next_state).masked_fill(late[:, None], torch.nan)


def test_episodes_that_are_not_finite_are_left_out_and_told_of():
    with pytest.warns(RuntimeWarning, match="env 1 is not finite; the episodes of 2 of 7 envs"):
        result = evaluate(still, Breaking([1, 4]), steps=20)
    assert result.lengths.tolist() == [2, 4, 5, 7, 8]
    assert result.returns.tolist() == [111 * length for length in [2, 4, 5, 7, 8]]
    assert result.max_returns is not None and result.max_returns.shape == (5,)
    with pytest.raises(UsageError, match="env 0 is not finite, and likewise in every other env"):
        evaluate(still, Breaking(list(range(ENVS))), steps=20)

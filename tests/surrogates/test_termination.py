"""The termination head, on windows of an env that ends by state."""

import pytest
import torch
from torch import Tensor
from toys.spring import gaussian_policy

from diffsurrogate.envs.torch_env import TorchEnv, TorchState
from diffsurrogate.nets.config import SharedNetConfig
from diffsurrogate.surrogates.action_world_model import ActionWorldModelConfig
from diffsurrogate.surrogates.config import FitConfig, SurrogateConfig
from diffsurrogate.surrogates.heads import RewardConfig
from diffsurrogate.surrogates.step_model import StepModelConfig
from diffsurrogate.wrappers.learned import LearnedDiffWrapper

ENVS, AGENTS, HORIZON = 7, 3, 11
NET = SharedNetConfig(hidden=(8,), activation="silu")
STEP = StepModelConfig(net=NET)
WORLD = ActionWorldModelConfig(width=8, layers=2, feedforward=8, max_horizon=HORIZON, batch_size=8)


class Cliff(TorchEnv):
    """Points that walk, and fall off beyond 1."""

    def __init__(self, *, falls: bool = True) -> None:
        agents = [f"agent_{i}" for i in range(AGENTS)]
        super().__init__(num_envs=ENVS, agents=agents, obs_dim=1, act_dim=1, max_steps=13)
        self.falls = falls

    def spawn(self, count: int, generator: torch.Generator) -> TorchState:
        return {"x": torch.rand(count, AGENTS, 1, generator=generator) - 0.5}

    def observe(self, state: TorchState) -> Tensor:
        return state["x"]

    def advance(self, state: TorchState, action: Tensor) -> TorchState:
        return {"x": state["x"] + 0.3 * action}

    def reward(self, state: TorchState, action: Tensor, next_state: TorchState) -> Tensor:
        return next_state["x"][..., 0]

    def terminated(self, state: TorchState) -> Tensor:
        return self.falls & (state["x"][..., 0] > 1).any(-1)


@pytest.mark.parametrize(
    ("dynamics", "loop"), [(STEP, "closed"), (WORLD, "open")], ids=["step", "awm"]
)
def test_termination_is_learned_and_carries_a_gradient_but_never_its_value(dynamics, loop):
    config = SurrogateConfig(
        termination=True,
        loop=loop,
        reward=RewardConfig(net=NET),
        dynamics=dynamics,
        fit=FitConfig(minibatches=20, batch_size=64),
    )
    env = LearnedDiffWrapper(Cliff(), config=config)
    env.reset(seed=0)
    losses = []
    for number in range(13):
        env.detach()
        window = env.rollout(gaussian_policy(env, HORIZON), HORIZON)
        if number == 0:
            assert window.continue_prob is None  # nothing is known of ends yet
        else:
            assert torch.equal(window.continue_prob, (~window.terminated).float())
        losses.append(env.fit(window)["termination_loss"])
        assert 0 < window.terminated.sum() < window.terminated.numel() / 2
    assert losses[-1] < 0.5 * losses[0]
    assert losses[0] < 0.75  # from ln 2 = 0.69 nats, knowing nothing
    env.detach()
    policy = gaussian_policy(env, HORIZON)
    window = env.rollout(policy, HORIZON)
    grads = torch.autograd.grad(window.continue_prob.sum(), list(policy.actor.net.parameters()))
    assert any(grad.any() for grad in grads)
    to_the_edge = env.surrogates.predict_continuation(
        torch.tensor([-0.5, 0.9]).reshape(2, 1, 1).expand(2, AGENTS, 1), torch.ones(2, AGENTS, 1)
    )
    assert to_the_edge[0] > 0.8 > 0.2 > to_the_edge[1]


def test_where_nothing_terminates_there_is_no_continuation():
    env = LearnedDiffWrapper(
        Cliff(falls=False), config=SurrogateConfig(termination=True, fit=FitConfig(minibatches=2))
    )
    env.reset(seed=0)
    for _ in range(3):
        env.detach()
        window = env.rollout(gaussian_policy(env, HORIZON), HORIZON)
        report = env.fit(window)
        assert window.continue_prob is None
        assert "termination_error" not in report

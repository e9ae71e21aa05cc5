"""A spring with known dynamics and reward, and how windows of it are differentiated."""

import torch
from torch import Tensor, nn

from diffsurrogate.actor_critic.actor import Actor, ActorConfig, NoisyPolicy
from diffsurrogate.envs.env import MultiAgentVectorEnv
from diffsurrogate.envs.torch_env import TorchEnv, TorchState
from diffsurrogate.envs.window import Window
from diffsurrogate.functional.losses import shac_actor_loss
from diffsurrogate.nets.config import JointNetConfig, SharedNetConfig
from diffsurrogate.surrogates.action_world_model import ActionWorldModelConfig
from diffsurrogate.surrogates.config import FitConfig, SurrogateConfig
from diffsurrogate.surrogates.heads import RewardConfig
from diffsurrogate.surrogates.step_model import StepModelConfig
from diffsurrogate.wrappers.learned import LearnedDiffWrapper

ENVS, AGENTS, HORIZON = 7, 3, 5


class Spring(TorchEnv):
    """Masses on springs that the agents push; differentiable, and ends far from the origin."""

    true_gradients = frozenset({"dynamics", "reward"})

    def __init__(self, *, differentiable: bool = False, max_steps: int | None = None) -> None:
        super().__init__(
            num_envs=ENVS,
            agents=[f"agent_{i}" for i in range(AGENTS)],
            obs_dim=2,
            act_dim=1,
            differentiable=differentiable,
            max_steps=max_steps,
        )

    def spawn(self, count: int, generator: torch.Generator) -> TorchState:
        shape = (count, AGENTS, 2)
        return {"mass": torch.rand(shape, generator=generator) - 0.5}

    def observe(self, state: TorchState) -> Tensor:
        return state["mass"]

    def advance(self, state: TorchState, action: Tensor) -> TorchState:
        return {"mass": spring_step(state["mass"], action)}

    def reward(self, state: TorchState, action: Tensor, next_state: TorchState) -> Tensor:
        return spring_reward(state["mass"], action)

    def terminated(self, state: TorchState) -> Tensor:
        return (state["mass"][..., 0].abs() > 1.2).any(-1)


def spring_step(mass: Tensor, action: Tensor) -> Tensor:
    position, velocity = mass[..., 0], mass[..., 1]
    pull = position.mean(-1, keepdim=True) - 1.5 * position
    velocity = velocity + 0.3 * (pull + 2.0 * action[..., 0])
    return torch.stack([position + 0.3 * velocity, velocity], dim=-1)


def spring_reward(mass: Tensor, action: Tensor) -> Tensor:
    return -mass.square().sum(-1) - 0.1 * action.square().sum(-1)


class TrueStep(nn.Module):
    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        return spring_step(obs, action)


class TrueReward(nn.Module):
    def forward(self, obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        return spring_reward(obs, action)


DYNAMICS = {
    "step": StepModelConfig(),
    "awm": ActionWorldModelConfig(
        width=8, layers=2, feedforward=8, max_horizon=HORIZON, batch_size=8
    ),
}


def small(dynamics: str = "step", anchor: str = "real", loop: str = "closed") -> SurrogateConfig:
    return SurrogateConfig(
        anchor=anchor,
        loop=loop,
        dynamics=DYNAMICS[dynamics],
        reward=RewardConfig(net=SharedNetConfig(hidden=(8,), activation="silu")),
        fit=FitConfig(minibatches=3, batch_size=32),
    )


def gaussian_policy(env: MultiAgentVectorEnv, horizon: int = HORIZON) -> NoisyPolicy:
    torch.manual_seed(3)
    config = ActorConfig(net=JointNetConfig(hidden=(8,)), head_gain=1.0)
    actor = Actor(config, env.num_agents, env.obs_dim, env.action_low, env.action_high)
    return NoisyPolicy(actor, torch.randn(horizon, env.num_envs, env.num_agents, env.act_dim))


def policy_gradient(window: Window, policy: NoisyPolicy) -> Tensor:
    value_obs = window.next_obs if window.value_obs is None else window.value_obs
    loss = shac_actor_loss(
        window.reward,
        value_obs.sin().sum(-1),  # any smooth value
        window.terminated,
        window.truncated,
        gamma=0.9,
    )
    grads = torch.autograd.grad(loss, list(policy.actor.net.parameters()))
    return torch.cat([grad.flatten() for grad in grads])


def stepped(env: LearnedDiffWrapper, policy: NoisyPolicy) -> Window:
    """The window by plain stepping, as any user's loop would do it."""
    rows = []
    for _ in range(HORIZON):
        obs = env.current_obs
        action = policy(obs)
        _, reward, terminated, truncated, info = env.step(action)
        final, value_obs = info["final_obs"], info["value_obs"]
        rows.append((obs, action, reward, final, terminated, truncated, value_obs))
    names = ("obs", "action", "reward", "next_obs", "terminated", "truncated", "value_obs")
    return Window(**dict(zip(names, map(torch.stack, zip(*rows, strict=True)), strict=True)))

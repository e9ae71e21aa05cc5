"""A toy with a known optimum, and how the tests train on it."""

import torch
from torch import Tensor

from diffsurrogate.actor_critic.actor import ActorConfig
from diffsurrogate.actor_critic.critic import CriticConfig
from diffsurrogate.actor_critic.exploration import NoiseConfig
from diffsurrogate.algorithms.shac import SHAC, SHACConfig
from diffsurrogate.algorithms.value_learning import ValueLearningConfig
from diffsurrogate.envs.env import MultiAgentVectorEnv
from diffsurrogate.envs.torch_env import TorchEnv, TorchState
from diffsurrogate.nets.config import JointNetConfig, SharedNetConfig
from diffsurrogate.surrogates.config import FitConfig, SurrogateConfig
from diffsurrogate.surrogates.heads import RewardConfig
from diffsurrogate.surrogates.step_model import StepModelConfig
from diffsurrogate.wrappers.learned import LearnedDiffWrapper

ENVS, AGENTS, OBS, ACT, HORIZON = 7, 3, 5, 2, 4
NET = JointNetConfig(hidden=(8,))


class Reach(TorchEnv):
    """Points in [-1, 1]² that move by up to a half per step; the squared distance to 0 costs.

    The best is to walk straight to 0: from x, (|x| - ½)² is left after one step if |x| > ½, and
    nothing later. Its mean over x and the two coordinates is 2 ∫_½^1 (x - ½)² dx = 1/12.
    """

    def __init__(
        self,
        *,
        num_envs: int = ENVS,
        agents: int = AGENTS,
        differentiable: bool = True,
        device: str = "cpu",
    ) -> None:
        super().__init__(
            num_envs=num_envs,
            agents=[f"agent_{i}" for i in range(agents)],
            obs_dim=OBS,
            act_dim=ACT,
            differentiable=differentiable,
            device=device,
            max_steps=8,
        )
        self.broken = False

    def spawn(self, count: int, generator: torch.Generator) -> TorchState:
        shape = (count, self.num_agents, ACT)
        return {"x": 2 * torch.rand(shape, generator=generator, device=generator.device) - 1}

    def observe(self, state: TorchState) -> Tensor:
        return torch.cat([state["x"], state["x"].square(), state["x"][..., :1] * 0], dim=-1)

    def advance(self, state: TorchState, action: Tensor) -> TorchState:
        return {"x": state["x"] + 0.5 * action}

    def reward(self, state: TorchState, action: Tensor, next_state: TorchState) -> Tensor:
        cost = next_state["x"].square().sum(-1)
        if self.broken:  # the same value, an infinite slope
            cost = cost + (action - action.detach()).sum(-1).sqrt()
        return -cost


def config(**kwargs: object) -> SHACConfig:
    defaults = {
        "horizon": HORIZON,
        "actor": ActorConfig(net=NET, std=0.3),
        "critic": CriticConfig(net=NET),
        "noise": NoiseConfig(kind="ou"),
        "value": ValueLearningConfig(minibatches=2, batch_size=13),
    }
    return SHACConfig(**(defaults | kwargs))


def learned(env: MultiAgentVectorEnv, *, dynamics: bool = True) -> LearnedDiffWrapper:
    net = SharedNetConfig(hidden=(8,), activation="silu")
    surrogates = SurrogateConfig(
        reward=RewardConfig(net=net),
        dynamics=StepModelConfig(net=net),
        fit=FitConfig(minibatches=2, batch_size=32),
    )
    return LearnedDiffWrapper(env, dynamics=dynamics, config=surrogates)


def learned_reach() -> MultiAgentVectorEnv:
    return learned(Reach(differentiable=False))


def weights(agent: SHAC) -> list[Tensor]:
    modules = (agent.actor, agent.critic)
    return [value.detach().clone() for module in modules for value in module.state_dict().values()]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def mean_return(agent: SHAC) -> float:
    """Of the deterministic policy, per agent, over whole episodes."""
    env = Reach(num_envs=101)
    obs, _ = env.reset(seed=1)
    total = torch.zeros(101, AGENTS)
    for _ in range(8):
        obs, reward, *_ = env.step(agent.predict(obs))
        total += reward.detach()
    return float(total.mean())

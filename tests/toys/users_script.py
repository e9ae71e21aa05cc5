"""A user's script, which type checkers must understand; run in a folder with a run of it."""

from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from diffsurrogate import (
    PPO,
    SHAC,
    ActorConfig,
    EvalCallback,
    LearnedDiffWrapper,
    PPOConfig,
    SHACConfig,
    SharedNetConfig,
    SurrogateConfig,
    TrainingCallback,
    UsageError,
    as_multi_agent,
    evaluate,
    load_policy,
    make,
    recommended,
)
from diffsurrogate.algorithms import IPPO
from diffsurrogate.training.trainer import Trainer
from diffsurrogate.wrappers import TeamReward

Array = NDArray[np.float32]


class Walk(gymnasium.Env[Array, Array]):
    """A raw env."""

    observation_space = gymnasium.spaces.Box(-9, 9, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        super().reset(seed=seed)
        self.place = np.zeros(2, np.float32)
        return self.place, {}

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        self.place = np.clip(self.place + action, -9, 9)
        return self.place, -float(np.abs(self.place).sum()), False, False, {}


class Watch(TrainingCallback):
    """A callback with a beginning."""

    def begin(self, trainer: Trainer) -> None:
        self.seen = 0

    def __call__(self, trainer: Trainer, metrics: dict[str, float]) -> bool | None:
        self.seen += 1
        return metrics["reward"] < 1e9


def stop(trainer: Trainer, metrics: dict[str, float]) -> bool:
    return trainer.env_steps < 64


def train() -> SHAC:
    env = as_multi_agent(Walk, num_envs=3, max_steps=5)
    actor = ActorConfig(net=SharedNetConfig(hidden=(8,)))
    ppo = PPO(env, PPOConfig(horizon=5, actor=actor), seed=1)
    ppo.learn(30, [Watch(), stop, EvalCallback(as_multi_agent(Walk, num_envs=2, max_steps=5))])
    obs, _ = env.reset(seed=0)
    obs, reward, terminated, _, _ = env.step(ppo.predict(obs))
    print(reward.mean().item(), bool(terminated.any()), ppo.predict(obs.numpy()).shape)
    IPPO(env).save("ippo.pt")
    team: TeamReward = TeamReward(env)
    print(team.num_envs, evaluate(ppo.predict, env).mean_return)
    wrapped = LearnedDiffWrapper(Walk(), config=SurrogateConfig())
    print(SHAC(wrapped, SHACConfig.hybrid(learned=True)).config.horizon)
    pole = make("diffsurrogate/cartpole-swingup", num_envs=3, max_steps=4, differentiable=True)
    SHAC(pole, config=SHACConfig(horizon=4)).learn(total_steps=12).save("pole.pt")
    return SHAC.load("pole.pt", pole).learn(24)


def act() -> Array:
    policy, raw = load_policy("run", which="last"), gymnasium.make("Pendulum-v1")
    obs, _ = raw.reset(seed=0)
    obs, *_ = raw.step(policy(obs))
    return policy(obs, deterministic=False)


def main() -> None:
    agent, env = recommended("ppo", "gymnasium/Pendulum-v1").make(seed=0)
    print(agent.seed, env.num_envs, train().iteration, act().shape)
    try:
        make("nothing/there", num_envs=3)
    except UsageError as error:
        print(error)


if __name__ == "__main__":
    main()

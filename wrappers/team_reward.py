"""One reward per env, as Gymnasium's vector envs have it."""

from typing import Any

from gymnasium.vector import VectorWrapper
from torch import Tensor

from diffsurrogate.envs.env import MultiAgentVectorEnv


class TeamReward(VectorWrapper):
    """Sums rewards `(env, agent)` over agents to Gymnasium's `(env,)`; keeps tensors and graphs.

    Example:
        >>> from diffsurrogate import make
        >>> from diffsurrogate.wrappers.team_reward import TeamReward
        >>> env = TeamReward(make("diffsurrogate/cartpole-swingup", num_envs=4))
    """

    def __init__(self, env: MultiAgentVectorEnv) -> None:
        """Wrap one of our envs."""
        super().__init__(env)

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Any]]:
        """Step, with the reward of the team."""
        obs, reward, terminated, truncated, info = self.env.step(actions)
        return obs, reward.sum(-1), terminated, truncated, info

"""Stable-Baselines3's PPO in our run loop: seeds, checkpoints and metrics as of our trainers."""

from torch import Tensor

from diffsurrogate.envs.env import MultiAgentVectorEnv, State
from diffsurrogate.seeding import derive_seed
from diffsurrogate.training.trainer import Metrics, Trainer
from diffsurrogate.wrappers.sb3.config import SB3Config
from diffsurrogate.wrappers.sb3.ppo import SB3PPO


class SB3Trainer(Trainer):
    """Runs Stable-Baselines3's PPO, one rollout and its training per update.

    Example:
        >>> from diffsurrogate import make

        >>> env = make("diffsurrogate/cartpole-swingup", num_envs=4)
        >>> agent = SB3Trainer(env).learn(total_steps=256)
    """

    config_type = SB3Config
    config: SB3Config

    def __init__(
        self, env: MultiAgentVectorEnv, config: SB3Config | None = None, *, seed: int = 0
    ) -> None:
        """Build the model for an env.

        Args:
            env: any env of ours; no gradients are needed.
            config: hyperparameters.
            seed: of weights, actions and minibatches, and of the env's first reset.

        Raises:
            UsageError: the agents' action boxes differ, so that they cannot share a policy.
        """
        super().__init__(env, config or SB3Config(), seed)
        self.model = SB3PPO(env, self.config, seed=derive_seed(seed, "stable-baselines3"))

    def predict(self, obs: Tensor, deterministic: bool = True) -> Tensor:
        """Return actions in the box.

        Args:
            obs: (*batch, agent, obs_dim) float32.
            deterministic: the mean action or likeliest choice, or a sample.

        Raises:
            UsageError: `obs` has another shape.
        """
        self.check_obs(obs)
        return self.model.predict(obs, deterministic)

    def iterate(self) -> Metrics:
        """Collect one rollout and train on it."""
        return self.model.improve(self.iteration / self.total_iterations)

    def _predictor_state(self) -> State:
        return {}  # part of the model's

    def _state(self) -> State:
        return {"sb3": self.model.state_dict()}

    def _load_state(self, state: State) -> None:
        self.model.load_state_dict(state["sb3"], same_episodes=state["env"] is not None)


def load_policy(env: MultiAgentVectorEnv, config: SB3Config, state: State) -> SB3PPO:
    """Return a trained model that can only predict, on any number of copies of its env.

    Raises:
        KeyError, RuntimeError, ValueError: the state is not of such a model.
    """
    model = SB3PPO(env, config, seed=0)
    model.load_policy(state["sb3"])
    return model

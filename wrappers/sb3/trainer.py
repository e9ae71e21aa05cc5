"""Stable-Baselines3's algorithms in our run loop, with our seeds, checkpoints and metrics."""

import copy
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffsurrogate import seeding
from diffsurrogate.distributed import refuse_ranks
from diffsurrogate.envs.action_space import clamp_to_box
from diffsurrogate.envs.env import MultiAgentVectorEnv, Policy, State
from diffsurrogate.envs.observation_slices import without
from diffsurrogate.seeding import derive_seed
from diffsurrogate.training.checkpoint import check_finite
from diffsurrogate.training.metrics import Metrics
from diffsurrogate.training.trainer import Saved, Trainer
from diffsurrogate.wrappers.sb3.config import SB3Config, SB3OffPolicyConfig
from diffsurrogate.wrappers.sb3.export import SB3VecEnv, slot_rows, to_actions

# isort: split
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

Rate = float | Callable[[float], float]
"""A learning rate, or one of the share of the training that is left."""


class SB3Trainer(Trainer):
    """Runs an algorithm of Stable-Baselines3, which subclasses build and advance.

    Stable-Baselines3 draws from the global random streams of torch and NumPy; while it does, they
    hold a stream of this trainer, and everyone else's is put back afterwards.
    """

    leaves_out_broken = False
    model: BaseAlgorithm

    def __init__(
        self,
        env: MultiAgentVectorEnv,
        config: SB3Config | SB3OffPolicyConfig | None = None,
        *,
        seed: int = 0,
    ) -> None:
        """Build the model for an env.

        Args:
            env: any env of ours; no gradients are needed.
            config: hyperparameters, of `config_type`; None for its defaults.
            seed: of weights, actions and minibatches, and of the env's first reset.

        Raises:
            UsageError: the configuration is of another class, the algorithm cannot train on such an
                env, or the agents' action boxes differ, so that they cannot share a policy.
        """
        refuse_ranks("Stable-Baselines3")
        config = self.config_type() if config is None else config
        super().__init__(env, config, seed)
        self.slots = OngoingVecEnv(env, joint=config.joint)
        own_seed = derive_seed(seed, "stable-baselines3")
        self._random, self._samples = GlobalStreams(own_seed), GlobalStreams(own_seed + 1)
        rate: Rate = config.lr
        if config.lr_schedule == "linear":
            rate = lambda left: left * config.lr  # noqa: E731
        with self._random.in_force():
            self.model = self._make_model(rate)
        self.model.set_logger(Logger(folder=None, output_formats=[]))

    def policy(self, env: MultiAgentVectorEnv) -> Policy:
        """Return `predict`: these policies remember nothing."""
        return self.predict

    def _predict(self, obs: Tensor, deterministic: bool) -> Tensor:
        agents = self.env.num_agents if self.slots.joint else 1
        seen = without(obs.detach().cpu(), self.env.global_state_slice)
        with self._samples.in_force():
            rows = seen.reshape(-1, agents * seen.shape[-1]).numpy()
            chosen = to_actions(self._choose(rows, deterministic), self.env)
        action = chosen.reshape(*obs.shape[:-1], self.env.act_dim)
        return clamp_to_box(action, self.env.action_low, self.env.action_high)

    def iterate(self) -> Metrics:
        """Go on from where the env stands, by one window."""
        self.slots.start_counting()
        with self._random.in_force():
            report = self._improve()
        return report | self.slots.counted()

    def load_policy(self, state: State) -> None:
        """Take only what `predict` needs of the state of a trainer, on any number of envs.

        Raises:
            UsageError: weights or statistics are not finite.
        """
        own = state["sb3"]
        check_finite(own["policy"], "policy")
        self.model.policy.load_state_dict(own["policy"])

    @abstractmethod
    def _make_model(self, rate: Rate) -> BaseAlgorithm:
        """Return the algorithm, which acts in `slots`."""

    @abstractmethod
    def _improve(self) -> Metrics:
        """Let the algorithm collect a window and learn."""

    @property
    @abstractmethod
    def _optimiser(self) -> Saved:
        """The state of all that learns."""

    def _choose(self, rows: NDArray[np.float32], deterministic: bool) -> NDArray[Any]:
        """Return the actions of slots that see `rows` (slot, features)."""
        return self.model.predict(rows, deterministic=deterministic)[0]

    def _predictor_state(self) -> State:
        return {}  # part of the model's

    def _state(self) -> State:
        last = self.model._last_obs
        assert last is None or isinstance(last, np.ndarray)
        own = {
            "policy": dict(self.model.policy.state_dict()),
            "optimiser": self._optimiser.state_dict(),
            "random": self._random.state_dict(),
            "samples": self._samples.state_dict(),
            "last_obs": None if last is None else torch.tensor(last),
        }
        return {"sb3": own}

    def _load_state(self, state: State) -> None:
        self.load_policy(state)
        own = state["sb3"]
        check_finite(own["optimiser"], "optimiser")
        # a copy: an optimiser would share its loaded tensors with whoever saved them
        self._optimiser.load_state_dict(copy.deepcopy(own["optimiser"]))
        self._random.load_state_dict(own["random"])
        self._samples.load_state_dict(own["samples"])
        self.model._last_obs = None
        if state["env"] is not None and own["last_obs"] is not None:  # else new episodes start
            self.model._last_obs = own["last_obs"].cpu().numpy().copy()


class OngoingVecEnv(SB3VecEnv):
    """Slots of an env that others reset; counts what a rollout earned, before it is normalised."""

    def reset(self) -> NDArray[np.float32]:
        """Return the current observations (slot, features): the env goes on."""
        return slot_rows(self.env, self.env.current_obs, self.joint)

    def step_wait(self) -> VecEnvStepReturn:
        """Step, and count."""
        obs, reward, done, infos = super().step_wait()
        self._steps += 1
        self._reward += float(reward.sum())
        self._ended += int(done.sum())
        self._cut += sum(info["TimeLimit.truncated"] for info in infos)
        return obs, reward, done, infos

    def start_counting(self) -> None:
        """Begin a rollout."""
        self._steps, self._reward, self._ended, self._cut = 0, 0.0, 0, 0

    def counted(self) -> dict[str, float]:
        """Return the mean reward of an agent's step and how many envs ended since."""
        slots_per_env = self.num_envs / self.env.num_envs
        agent_steps = self._steps * self.env.num_envs * self.env.num_agents
        return {
            "reward": self._reward / agent_steps,
            "episodes_ended": self._ended / slots_per_env,
            "episodes_terminated": (self._ended - self._cut) / slots_per_env,
        }


class GlobalStreams:
    """A seeded state of the global random streams of torch (on the CPU) and NumPy."""

    def __init__(self, seed: int) -> None:
        """Start from a seed; nothing global changes."""
        self.torch = torch.Generator().manual_seed(seed).get_state()
        self.numpy: Any = np.random.RandomState(seed % 2**32).get_state()

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """Let the global streams go on from here, then put back what they were."""
        with seeding.GLOBAL_STREAMS:
            yield from self._in_force()

    def _in_force(self) -> Iterator[None]:
        others = torch.get_rng_state(), np.random.get_state()
        torch.set_rng_state(self.torch)
        np.random.set_state(self.numpy)
        try:
            yield
        finally:
            self.torch, self.numpy = torch.get_rng_state(), np.random.get_state()
            torch.set_rng_state(others[0])
            np.random.set_state(others[1])

    def state_dict(self) -> State:
        """Return the state in tensors and plain numbers."""
        _, keys, *rest = self.numpy
        numbers = [float(number) for number in rest]
        return {"torch": self.torch, "keys": torch.tensor(keys.astype(np.int64)), "rest": numbers}

    def load_state_dict(self, state: State) -> None:
        """Take back what `state_dict` returned."""
        position, has_gauss, cached = state["rest"]
        keys = state["keys"].cpu().numpy().astype(np.uint32)
        self.torch = state["torch"].cpu()
        self.numpy = ("MT19937", keys, int(position), int(has_gauss), cached)

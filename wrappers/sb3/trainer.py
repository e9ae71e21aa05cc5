"""Stable-Baselines3's PPO in our run loop: seeds, checkpoints and metrics as of our trainers."""

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from diffsurrogate import seeding
from diffsurrogate.envs.env import MultiAgentVectorEnv, State
from diffsurrogate.envs.observation_slices import without
from diffsurrogate.errors import UsageError
from diffsurrogate.seeding import derive_seed
from diffsurrogate.training.checkpoint import check_finite
from diffsurrogate.training.trainer import Metrics, Trainer
from diffsurrogate.wrappers.sb3.config import SB3Config
from diffsurrogate.wrappers.sb3.export import SB3VecEnv, slot_rows, to_actions

# isort: split
from stable_baselines3 import PPO
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecNormalize
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

_LOGGED = {
    "clipped_loss": "train/policy_gradient_loss",
    "critic_loss": "train/value_loss",
    "kl": "train/approx_kl",
    "clipped_share": "train/clip_fraction",
}


class SB3Trainer(Trainer):
    """Runs Stable-Baselines3's PPO, one rollout and its training per update.

    Stable-Baselines3 draws from the global random streams of torch and NumPy; while it does, they
    hold a stream of this trainer, and everyone else's is put back afterwards.

    Example:
        >>> from diffsurrogate import make

        >>> env = make("diffsurrogate/cartpole-swingup", num_envs=4)
        >>> agent = SB3Trainer(env).learn(total_steps=256)
    """

    config_type = SB3Config
    config: SB3Config
    leaves_out_broken = False

    def __init__(
        self, env: MultiAgentVectorEnv, config: SB3Config | None = None, *, seed: int = 0
    ) -> None:
        """Build the model for an env.

        Args:
            env: any env of ours; no gradients are needed.
            config: hyperparameters.
            seed: of weights, actions and minibatches, and of the env's first reset.

        Raises:
            UsageError: a rollout is a single slot, or the agents' action boxes differ, so that they
                cannot share a policy.
        """
        config = config or SB3Config()
        super().__init__(env, config, seed)
        self.slots = OngoingVecEnv(env, joint=config.joint)
        if self.slots.num_envs * config.horizon < 2:
            raise UsageError(
                "a rollout of one env, one agent and one step has no spread of advantages; raise "
                "num_envs or the horizon"
            )
        self.normaliser: VecNormalize | None = None
        if config.normalise:
            self.normaliser = VecNormalize(self.slots, gamma=config.gamma)
        own_seed = derive_seed(seed, "stable-baselines3")
        self._random, self._samples = GlobalStreams(own_seed), GlobalStreams(own_seed + 1)
        rate: float | Callable[[float], float] = config.lr
        if config.lr_schedule == "linear":
            rate = lambda left: left * config.lr  # noqa: E731
        with self._random.in_force(), warnings.catch_warnings():
            # a last minibatch that is smaller does no harm
            warnings.filterwarnings("ignore", message="You have specified a mini-batch size")
            self.model = PPO(
                "MlpPolicy",
                self.normaliser or self.slots,
                learning_rate=rate,
                n_steps=config.horizon,
                batch_size=config.batch_size,
                n_epochs=config.epochs,
                gamma=config.gamma,
                gae_lambda=config.lam,
                clip_range=config.clip_range,
                ent_coef=config.entropy_weight,
                vf_coef=config.value_weight,
                max_grad_norm=config.max_grad_norm,
                policy_kwargs={"net_arch": list(config.hidden)},
                device="cpu",
            )
        self.model.set_logger(Logger(folder=None, output_formats=[]))
        box = self.slots.action_space
        if config.std is not None and isinstance(box, spaces.Box):
            half = torch.as_tensor((box.high - box.low) / 2).flatten()
            with torch.no_grad():
                self.model.policy.log_std.copy_((config.std * half).log())

    def predict(self, obs: Tensor, deterministic: bool = True) -> Tensor:
        """Return actions in the box.

        Args:
            obs: (*batch, agent, obs_dim) float32.
            deterministic: the mean action or likeliest choice, or a sample.

        Raises:
            UsageError: `obs` has another shape.
        """
        self.check_obs(obs)
        agents = self.env.num_agents if self.slots.joint else 1
        seen = without(obs.detach().cpu(), self.env.global_state_slice)
        rows: Any = seen.reshape(-1, agents * seen.shape[-1]).numpy()
        if self.normaliser is not None:
            rows = self.normaliser.normalize_obs(rows)
        with self._samples.in_force():
            chosen, _ = self.model.predict(rows, deterministic=deterministic)
        return to_actions(chosen, self.env).reshape(*obs.shape[:-1], self.env.act_dim)

    def iterate(self) -> Metrics:
        """Collect one rollout from where the env stands and train on it."""
        model = self.model
        assert model.env is not None
        self.slots.start_counting()
        with self._random.in_force():
            _, callback = model._setup_learn(0, None, reset_num_timesteps=False)
            model._current_progress_remaining = 1 - self.iteration / self.total_iterations
            model.collect_rollouts(
                model.env, callback, model.rollout_buffer, n_rollout_steps=self.config.horizon
            )
            model.train()
        logged = model.logger.name_to_value
        return {name: float(logged[key]) for name, key in _LOGGED.items()} | self.slots.counted()

    def load_policy(self, state: State) -> None:
        """Take only what `predict` needs of the state of a trainer, on any number of envs.

        Raises:
            UsageError: weights or statistics are not finite.
        """
        own = state["sb3"]
        check_finite(own["policy"], "policy")
        check_finite(own["normaliser"] or {}, "normaliser")
        self.model.policy.load_state_dict(own["policy"])
        if self.normaliser is not None:
            _load_moments(_moments_of(self.normaliser), own["normaliser"]["obs"])

    def _predictor_state(self) -> State:
        return {}  # part of the model's

    def _state(self) -> State:
        model, last = self.model, self.model._last_obs
        assert last is None or isinstance(last, np.ndarray)
        own = {
            "policy": dict(model.policy.state_dict()),
            "optimiser": model.policy.optimizer.state_dict(),
            "normaliser": None if self.normaliser is None else _save_normaliser(self.normaliser),
            "random": self._random.state_dict(),
            "samples": self._samples.state_dict(),
            "last_obs": None if last is None else torch.tensor(last),
            "episode_starts": torch.tensor(np.asarray(model._last_episode_starts, dtype=bool)),
        }
        return {"sb3": own}

    def _load_state(self, state: State) -> None:
        self.load_policy(state)
        own = state["sb3"]
        check_finite(own["optimiser"], "optimiser")
        # a copy: an optimiser would share its loaded tensors with whoever saved them
        self.model.policy.optimizer.load_state_dict(copy.deepcopy(own["optimiser"]))
        if self.normaliser is not None:
            self.normaliser.returns = own["normaliser"]["returns"].numpy().copy()
            _load_moments(self.normaliser.ret_rms, own["normaliser"]["reward"])
        self._random.load_state_dict(own["random"])
        self._samples.load_state_dict(own["samples"])
        self.model._last_obs = None
        if state["env"] is not None and own["last_obs"] is not None:  # else new episodes start
            self.model._last_obs = own["last_obs"].cpu().numpy().copy()
            self.model._last_episode_starts = own["episode_starts"].cpu().numpy().copy()


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


def _moments_of(normaliser: VecNormalize) -> RunningMeanStd:
    assert isinstance(normaliser.obs_rms, RunningMeanStd)  # there is one of each key of a dict
    return normaliser.obs_rms


def _save_normaliser(normaliser: VecNormalize) -> State:
    return {
        "obs": _save_moments(_moments_of(normaliser)),
        "reward": _save_moments(normaliser.ret_rms),
        "returns": torch.tensor(normaliser.returns),
    }


def _save_moments(moments: RunningMeanStd) -> State:
    mean, var = (torch.tensor(np.asarray(value)) for value in (moments.mean, moments.var))
    return {"mean": mean, "var": var, "count": float(moments.count)}


def _load_moments(moments: RunningMeanStd, state: State) -> None:
    mean, var = (state[name].cpu().numpy().copy() for name in ("mean", "var"))
    if mean.shape != np.shape(moments.mean):
        raise ValueError(f"statistics of {mean.shape} features, not {np.shape(moments.mean)}")
    moments.mean, moments.var, moments.count = mean, var, state["count"]

"""Stable-Baselines3's PPO in our run loop."""

import warnings
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray

from diffsurrogate.envs.env import State
from diffsurrogate.errors import UsageError
from diffsurrogate.training.checkpoint import check_finite
from diffsurrogate.training.metrics import Metrics
from diffsurrogate.training.trainer import Saved
from diffsurrogate.wrappers.sb3.config import SB3Config
from diffsurrogate.wrappers.sb3.trainer import Rate, SB3Trainer

# isort: split
from stable_baselines3 import PPO
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecNormalize

_LOGGED = {
    "clipped_loss": "train/policy_gradient_loss",
    "critic_loss": "train/value_loss",
    "kl": "train/approx_kl",
    "clipped_share": "train/clip_fraction",
}


class SB3PPO(SB3Trainer):
    """Runs Stable-Baselines3's PPO, one rollout and its training per update.

    Example:
        >>> from diffsurrogate import make

        >>> env = make("diffsurrogate/cartpole-swingup", num_envs=4)
        >>> agent = SB3PPO(env).learn(total_steps=256)
    """

    config_type = SB3Config
    config: SB3Config
    model: PPO

    def load_policy(self, state: State) -> None:
        """Take also the statistics of observations."""
        own = state["sb3"]
        check_finite(own["normaliser"] or {}, "normaliser")
        super().load_policy(state)
        if self.normaliser is not None:
            _load_moments(_moments_of(self.normaliser), own["normaliser"]["obs"])

    def __getstate__(self) -> dict[str, Any]:
        raise UsageError(
            "a trainer of Stable-Baselines3's PPO cannot be copied or pickled, as its VecNormalize "
            "would lose its env; save it by agent.save(path) and go on by SB3PPO.load(path, env)"
        )

    def _make_model(self, rate: Rate) -> PPO:
        config, slots = self.config, self.slots
        if slots.num_envs * config.horizon < 2:
            raise UsageError(
                "a rollout of one env, one agent and one step has no spread of advantages; raise "
                "num_envs or the horizon"
            )
        self.normaliser = VecNormalize(slots, gamma=config.gamma) if config.normalise else None
        with warnings.catch_warnings():
            # a last minibatch that is smaller does no harm
            warnings.filterwarnings("ignore", message="You have specified a mini-batch size")
            model = PPO(
                "MlpPolicy",
                self.normaliser or slots,
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
        box = slots.action_space
        if config.std is not None and isinstance(box, spaces.Box):
            half = torch.as_tensor((box.high - box.low) / 2).flatten()
            with torch.no_grad():
                model.policy.log_std.copy_((config.std * half).log())
        return model

    def _choose(self, rows: NDArray[np.float32], deterministic: bool) -> NDArray[Any]:
        seen: Any = rows if self.normaliser is None else self.normaliser.normalize_obs(rows)
        return super()._choose(seen, deterministic)

    def _improve(self) -> Metrics:
        """Collect one rollout and train on it."""
        model = self.model
        assert model.env is not None
        _, callback = model._setup_learn(0, None, reset_num_timesteps=False)
        model._current_progress_remaining = 1 - self.iteration / self.total_iterations
        model.collect_rollouts(
            model.env, callback, model.rollout_buffer, n_rollout_steps=self.config.horizon
        )
        model.train()
        logged = model.logger.name_to_value
        return {name: float(logged[key]) for name, key in _LOGGED.items()}

    @property
    def _optimiser(self) -> Saved:
        return self.model.policy.optimizer

    def _state(self) -> State:
        state = super()._state()
        starts = np.asarray(self.model._last_episode_starts, dtype=bool)
        state["sb3"] |= {
            "normaliser": None if self.normaliser is None else _save_normaliser(self.normaliser),
            "episode_starts": torch.tensor(starts),
        }
        return state

    def _load_state(self, state: State) -> None:
        super()._load_state(state)
        own = state["sb3"]
        if self.normaliser is not None:
            self.normaliser.returns = own["normaliser"]["returns"].numpy().copy()
            _load_moments(self.normaliser.ret_rms, own["normaliser"]["reward"])
        if self.model._last_obs is not None:
            self.model._last_episode_starts = own["episode_starts"].cpu().numpy().copy()


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

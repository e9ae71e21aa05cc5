"""Stable-Baselines3's SAC and TD3 in our run loop, and their replay in our checkpoints."""

from abc import abstractmethod
from collections import defaultdict
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch.optim import Optimizer

from diffsurrogate.envs.env import State
from diffsurrogate.errors import UsageError
from diffsurrogate.seeding import derive_seed
from diffsurrogate.training.checkpoint import check_finite
from diffsurrogate.training.metrics import Metrics
from diffsurrogate.wrappers.sb3.config import SB3OffPolicyConfig, SB3SACConfig, SB3TD3Config
from diffsurrogate.wrappers.sb3.trainer import Rate, SB3Trainer

# isort: split
from stable_baselines3 import SAC, TD3
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit

_ONE_STEP = TrainFreq(1, TrainFrequencyUnit.STEP)
_LOGGED = {
    "actor_loss": "train/actor_loss",
    "critic_loss": "train/critic_loss",
    "entropy_weight": "train/ent_coef",
}
_STORED = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


class SB3OffPolicy(SB3Trainer):
    """Runs SAC or TD3: after every step of all envs, the gradient steps that are due by then.

    Episodes that a time limit ends are bootstrapped from their last observation
    (`handle_timeout_termination` of the replay).
    """

    config: SB3OffPolicyConfig
    model: OffPolicyAlgorithm
    called: ClassVar[str]
    """The algorithm, for messages."""

    def _make_model(self, rate: Rate) -> OffPolicyAlgorithm:
        config, slots = self.config, self.slots
        box = slots.action_space
        if not isinstance(box, spaces.Box):
            raise UsageError(
                f"{self.called} needs continuous actions, and this env's are choices; use another "
                "method, such as sb3-ppo or ppo"
            )
        if not (box.high > box.low).all():
            raise UsageError(
                f"{self.called} divides by the width of the action box, which is 0 somewhere: "
                f"{box}; leave such actions out of the env, or use another method, such as ppo"
            )
        if config.capacity < slots.num_envs:
            raise UsageError(
                f"a replay of {config.capacity} transitions has no room for one step of "
                f"{slots.num_envs}; raise the capacity"
            )
        box.seed(derive_seed(self.seed, "first actions"))  # it draws the actions before learning
        return self._make(
            policy="MlpPolicy",
            env=slots,
            learning_rate=rate,
            buffer_size=config.capacity,
            batch_size=config.batch_size,
            tau=1 - config.target_decay,
            gamma=config.gamma,
            policy_kwargs={"net_arch": list(config.hidden)},
            device="cpu",
        )

    @abstractmethod
    def _make(self, **shared: Any) -> OffPolicyAlgorithm:
        """Return the model, with what SAC and TD3 do not share."""

    def _improve(self) -> Metrics:
        model, config, slots = self.model, self.config, self.slots
        per_window = config.horizon * slots.num_envs
        model.num_timesteps = self.iteration * per_window  # it counts steps in slots
        to_go = self.total_iterations * per_window - model.num_timesteps
        _, callback = model._setup_learn(to_go, None, reset_num_timesteps=False)
        starts = config.learning_starts * slots.num_envs // self.env.num_envs
        found: defaultdict[str, list[float]] = defaultdict(list)
        for step in range(config.horizon):
            model.collect_rollouts(
                slots, callback, _ONE_STEP, self._replay, model.action_noise, starts
            )
            due = self._gradient_steps_after(self.iteration * config.horizon + step + 1)
            if due > 0:
                model.logger.name_to_value.clear()
                model.train(due, config.batch_size)
                for name, value in model.logger.name_to_value.items():
                    found[name].append(float(value))
        return {name: float(np.mean(found[key])) for name, key in _LOGGED.items() if found[key]}

    def _gradient_steps_after(self, step: int) -> int:
        """Return how many are due after that step of every env, counted from 1."""
        copies, each = self.env.num_envs, self.config.env_steps_per_gradient_step
        taken = step * copies
        if taken <= self.config.learning_starts:
            return 0
        return taken // each - (taken - copies) // each

    @property
    def _replay(self) -> ReplayBuffer:
        assert self.model.replay_buffer is not None
        return self.model.replay_buffer

    @property
    def _optimiser(self) -> "_Optimisers":
        model: Any = self.model
        return _Optimisers(actor=model.actor.optimizer, critic=model.critic.optimizer)

    def _state(self) -> State:
        state = super()._state()
        state["sb3"] |= {
            "gradient_steps": self.model._n_updates,
            "first_actions": self.slots.action_space.np_random.bit_generator.state,
            "replay": _save_replay(self._replay),
        }
        return state

    def _load_state(self, state: State) -> None:
        super()._load_state(state)
        own = state["sb3"]
        self.model._n_updates = own["gradient_steps"]
        self.slots.action_space.np_random.bit_generator.state = own["first_actions"]
        _load_replay(self._replay, own["replay"])


class SB3SAC(SB3OffPolicy):
    """Runs Stable-Baselines3's SAC.

    Example:
        >>> from diffsurrogate import make

        >>> env = make("diffsurrogate/cartpole-swingup", num_envs=4)
        >>> agent = SB3SAC(env, SB3SACConfig(learning_starts=100)).learn(total_steps=256)
    """

    config_type = SB3SACConfig
    config: SB3SACConfig
    model: SAC
    called = "SAC"

    def _make(self, **shared: Any) -> SAC:
        weight = self.config.entropy_weight
        return SAC(ent_coef="auto" if weight is None else weight, **shared)

    @property
    def _optimiser(self) -> "_Optimisers":
        optimisers = super()._optimiser
        if self.model.ent_coef_optimizer is not None:
            optimisers["entropy_weight"] = self.model.ent_coef_optimizer
        return optimisers

    def _state(self) -> State:
        state = super()._state()
        log_weight = self.model.log_ent_coef
        state["sb3"]["log_entropy_weight"] = None if log_weight is None else log_weight.detach()
        return state

    def _load_state(self, state: State) -> None:
        super()._load_state(state)
        if self.model.log_ent_coef is not None:
            log_weight = state["sb3"]["log_entropy_weight"]
            check_finite({"log_entropy_weight": log_weight}, "sb3")
            with torch.no_grad():
                self.model.log_ent_coef.copy_(log_weight)


class SB3TD3(SB3OffPolicy):
    """Runs Stable-Baselines3's TD3, whose samples are its actions with the noise it explores by.

    Example:
        >>> from diffsurrogate import make

        >>> env = make("diffsurrogate/cartpole-swingup", num_envs=4)
        >>> agent = SB3TD3(env, SB3TD3Config(learning_starts=100)).learn(total_steps=256)
    """

    config_type = SB3TD3Config
    config: SB3TD3Config
    model: TD3
    called = "TD3"

    def _make(self, **shared: Any) -> TD3:
        config, shape = self.config, self.slots.action_space.shape
        assert shape is not None
        return TD3(
            action_noise=NormalActionNoise(np.zeros(shape), np.full(shape, config.noise_std)),
            policy_delay=config.policy_delay,
            target_policy_noise=config.target_noise_std,
            target_noise_clip=config.target_noise_clip,
            **shared,
        )

    def _choose(self, rows: NDArray[np.float32], deterministic: bool) -> NDArray[Any]:
        chosen = super()._choose(rows, deterministic=True)  # TD3 itself never samples
        if deterministic:
            return chosen
        policy = self.model.policy
        noise = np.random.normal(0, self.config.noise_std, chosen.shape)  # of `_samples`
        return policy.unscale_action(np.clip(policy.scale_action(chosen) + noise, -1, 1))


class _Optimisers(dict[str, Optimizer]):
    """Several, by name, as one part of a checkpoint."""

    def state_dict(self) -> State:
        return {name: optimiser.state_dict() for name, optimiser in self.items()}

    def load_state_dict(self, state: State) -> None:
        for name, optimiser in self.items():
            optimiser.load_state_dict(state[name])


def _save_replay(replay: ReplayBuffer) -> State:
    """Return what the replay holds, without a copy."""
    filled = replay.size()
    arrays = {name: torch.from_numpy(getattr(replay, name)[:filled]) for name in _STORED}
    return {"position": replay.pos, "full": replay.full, "transitions": arrays}


def _load_replay(replay: ReplayBuffer, state: State) -> None:
    position, full = state["position"], state["full"]
    filled = replay.buffer_size if full else position
    for name in _STORED:
        array, kept = getattr(replay, name), state["transitions"][name].cpu().numpy()
        if kept.shape != (filled, *array.shape[1:]):
            raise ValueError(f"{name} of {kept.shape} in a replay of {array.shape}")
        np.copyto(array[:filled], kept, casting="no")
    replay.pos, replay.full = position, full

"""The base class of trainers: training loop, predictions and checkpoints."""

import copy
import hashlib
import logging
import math
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Protocol, SupportsInt, TypeVar, runtime_checkable

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from diffsurrogate.actor_critic.actor import Actor
from diffsurrogate.actor_critic.recurrent import RecurrentActor, RecurrentPolicy
from diffsurrogate.config import check_same_config, config_from_dict
from diffsurrogate.distributed import (
    check_started,
    check_world_size,
    is_any,
    rank,
    rank_seed,
    refuse_ranks,
    require_equal,
    states_at_rank_0,
    world_size,
)
from diffsurrogate.envs.env import MultiAgentVectorEnv, Policy, State
from diffsurrogate.envs.modes import (
    check_defaults,
    check_grad_mode,
    keep_outside,
    outside_inference_mode,
)
from diffsurrogate.envs.raw_form import float32_rows, in_kind_of
from diffsurrogate.envs.registry import check_adapted
from diffsurrogate.envs.window import Window
from diffsurrogate.errors import UsageError
from diffsurrogate.optimisation import ClippedAdam, ema_of
from diffsurrogate.seeding import derive_env_seed, derive_seed
from diffsurrogate.training.broken_copies import IN_A_ROW, BrokenCopies
from diffsurrogate.training.callbacks import Callback, as_list, name_of, told
from diffsurrogate.training.checkpoint import check_finite, load_checkpoint, save_checkpoint
from diffsurrogate.training.metrics import Metrics, joint

_LOG = logging.getLogger("diffsurrogate")
SomeTrainer = TypeVar("SomeTrainer", bound="Trainer")
_NOT_FINITE = (
    f"in each of the last {IN_A_ROW} updates a gradient was not finite and was skipped "
    "(skipped_updates and dropped_gradients count them), so that little or nothing is learned; "
    "check the env's native gradients (check_gradients), or let LearnedDiffWrapper learn bounded "
    "ones over fewer steps (horizon, segment_length)"
)
Array = TypeVar("Array", Tensor, NDArray[Any])


@runtime_checkable
class Saved(Protocol):
    """A part of a checkpoint: a module, an optimiser, a replay buffer."""

    def state_dict(self) -> Any:
        """Return tensors and plain values."""
        ...

    def load_state_dict(self, state: Any, /) -> Any:
        """Restore what `state_dict` returned."""
        ...


class Trainer(ABC):
    """Trains an actor window by window.

    Subclasses build `actor` (or override `predict`) and other modules, `register` each of them for
    checkpoints, and implement `iterate`.
    """

    config_type: ClassVar[type]
    leaves_out_broken: ClassVar[bool] = True
    """Whether updates leave out envs with values that are not finite (`BrokenCopies`)."""
    actor: Actor

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Let trainers be made outside of inference mode."""
        super().__init_subclass__(**kwargs)
        keep_outside(cls, frozenset(["__init__", "load_state_dict"]))

    def __init__(self, env: MultiAgentVectorEnv, config: Any, seed: int) -> None:
        """Initialise the counters and random streams.

        Args:
            env: stepped in windows of `config.horizon` steps.
            config: hyperparameters, a frozen dataclass.
            seed: of everything random, and of the env's first reset.
        """
        check_defaults()
        check_adapted(env, f"{type(self).__name__} cannot train on")
        if type(config) is not self.config_type:
            raise UsageError(
                f"{type(self).__name__} is set by {self.config_type.__name__}, not by "
                f"{type(config).__name__}, some of whose options it would ignore"
            )
        self.env = env
        self.config: Any = config
        check_started()
        self.seed = seed
        own = rank_seed(seed)
        self.noise_rng = torch.Generator(env.device).manual_seed(derive_seed(own, "noise"))
        self.minibatch_rng = torch.Generator().manual_seed(derive_seed(own, "minibatches"))
        # for `predict`, so that it does not influence training
        self.predict_rng = torch.Generator(env.device).manual_seed(derive_seed(own, "samples"))
        self.iteration = 0
        self.total_iterations = 0
        self.started = False
        self.ranks = world_size()
        """Number of processes that train together."""
        self.broken_copies = BrokenCopies()
        self.ema_actor: AveragedModel | None = None
        self._parts: dict[str, Saved] = {}
        self._saved_copies: int | None = None  # of a checkpoint of which only the policy is used

    def __repr__(self) -> str:
        """Return what it trains on and how far it is, on one line."""
        return f"{type(self).__name__}({self.env!r}, {self.env_steps:,} env steps)"

    def register(self, **parts: Saved) -> None:
        """Add named parts to checkpoints."""
        self._parts |= parts

    @property
    def skipped(self) -> int:
        """Number of skipped gradients, over all optimisers."""
        optimisers = [part for part in self._parts.values() if isinstance(part, ClippedAdam)]
        return sum(optimiser.skipped for optimiser in optimisers)

    @property
    def _faults(self) -> int:
        """Skipped gradients of optimisers and dropped ones of single envs."""
        return self.skipped + int(self.env.gradient_guard.dropped)

    @property
    def env_steps(self) -> int:
        """Steps so far, summed over all envs of all ranks."""
        return self.iteration * self.steps_per_iteration

    @property
    def steps_per_iteration(self) -> int:
        """Steps of one window, summed over all envs of all ranks."""
        steps: int = self.env.num_envs * self.config.horizon * self.ranks
        return steps

    def learn(
        self: SomeTrainer,
        total_steps: int,
        callback: Callback | Sequence[Callback] | None = None,
        progress_bar: bool = False,
    ) -> SomeTrainer:
        """Train until `total_steps` env steps have been taken, or the callback returns False.

        Under `torchrun`, once the script has called `torch.distributed.init_process_group`, all
        processes train one policy, each on its own `env`; all call this and `save`.

        Args:
            total_steps: summed over all envs, rounded up to whole windows; of the whole training,
                not of this call: to train on, give more than `env_steps`.
            callback: one or several, called in turn with the trainer and the metrics of each
                update; one that returns False, in one of several processes, stops all.
            progress_bar: whether to show one.

        Raises:
            UsageError: `total_steps` is no number from 1 on, or a callback is none.
        """
        from tqdm.auto import tqdm  # a bar of its own in notebooks

        if not (isinstance(total_steps, SupportsInt) and 1 <= total_steps < math.inf):
            raise UsageError(
                f"total_steps is {total_steps!r}; give a number of at least 1 (10**12 to go on "
                "until a callback returns False)"
            )
        iterations = -(-total_steps // self.steps_per_iteration)
        if iterations <= self.iteration:
            _LOG.warning(
                "nothing was learned: total_steps is %d and counts the whole training, of which %d "
                "steps were taken before; give more to train on",
                *(total_steps, self.env_steps),
            )
        bar = tqdm(
            total=total_steps,
            initial=min(self.env_steps, total_steps),
            unit="step",
            unit_scale=True,
            disable=not progress_bar or rank() > 0,
        )
        with bar, told(self, as_list(callback)) as callbacks:
            for metrics in self.iterations(iterations):
                bar.update(min(self.env_steps, total_steps) - bar.n)
                bar.set_postfix(reward=f"{metrics['reward']:.4g}")
                stops = [one for one in callbacks if one(self, metrics) is False]
                if is_any(len(stops) > 0):
                    bar.set_description(f"stopped by {', '.join(map(name_of, stops))}")
                    break
        return self

    def predict(self, obs: Array, deterministic: bool = True) -> Array:
        """Return actions, clamped to their bounds.

        Args:
            obs: (*batch, agent, obs_dim), a tensor or a NumPy array, as the actions are.
            deterministic: return the mean or most probable action instead of a sample.

        Raises:
            UsageError: `obs` has a wrong shape, or the policy is recurrent; use `policy` then.
        """
        rows = float32_rows(obs, self.env.device)
        self.check_obs(rows)
        found: Array = in_kind_of(obs, self._predict(rows, deterministic))
        return found

    def _predict(self, obs: Tensor, deterministic: bool) -> Tensor:
        """Return actions for observations of the right shape."""
        noise = None
        with torch.no_grad():
            if not deterministic:
                shape = (*obs.shape[:-1], self.env.act_dim)
                noise = torch.randn(shape, generator=self.predict_rng, device=obs.device)
            action = self.predictor.act(obs, noise)
        return self.predictor.action_space.executed(action)

    def policy(self, env: MultiAgentVectorEnv) -> Policy:
        """Return a deterministic policy for an env: `predict`, unless the policy is recurrent.

        Args:
            env: the only env to use the policy on, once per step; hidden states are reset at its
                episode starts.
        """
        actor = self.predictor
        return RecurrentPolicy(actor, env) if isinstance(actor, RecurrentActor) else self.predict

    def check_obs(self, obs: Tensor) -> None:
        """Refuse observations of another shape than `(*batch, agent, obs_dim)`."""
        needed = (self.env.num_agents, self.env.obs_dim)
        if tuple(obs.shape[-2:]) != needed:
            raise UsageError(
                f"obs has the shape {tuple(obs.shape)}; give (..., agent, obs_dim) = "
                f"(..., {needed[0]}, {needed[1]})"
            )

    def save(self, path: str | Path) -> None:
        """Save everything needed to resume: networks, optimisers, buffers, random state, env.

        Of several processes all call it, and the first writes one file for all.
        """
        state = self.state_dict()
        if rank() == 0:
            save_checkpoint(Path(path), state)
        is_any(False)  # none goes on before the file is there

    @classmethod
    @outside_inference_mode
    def load(
        cls: type[SomeTrainer], path: str | Path, env: MultiAgentVectorEnv, config: Any = None
    ) -> SomeTrainer:
        """Resume from a saved trainer, on an env of the same kind.

        Args:
            path: written by `save`, or a run's checkpoint.
            env: made with the same arguments. Of an env with another `num_envs` only the policy is
                loaded: it acts and is evaluated, but cannot be trained on or saved.
            config: None for the saved one; a different one is refused.

        Raises:
            UsageError: the file is not a valid checkpoint, does not fit env and config, or has
                weights that are not finite.
        """
        check_adapted(env, f"{cls.__name__} cannot be loaded on")
        state = load_checkpoint(Path(path), device=env.device)
        state = state.get("agent", state)  # a run's checkpoint holds more than the trainer
        if "seed" not in state:
            raise UsageError(
                f"{path} is not of a trainer; give what {cls.__name__}.save or a run wrote"
            )
        if config is None:
            config = _saved_config(cls, state, path)
        agent = cls(env, config, seed=int(state["seed"]))
        agent.load_state_dict(state)
        return agent

    def iterations(self, total_iterations: int) -> Iterator[Metrics]:
        """Yield the metrics of every update; the caller logs, saves and stops.

        Raises:
            UsageError: torch keeps no graph, or its default dtype or device was changed; or other
                processes that train along were given something else; or the trainer was loaded onto
                another number of copies.

        Warns:
            RuntimeWarning: gradients were skipped in many consecutive updates.
        """
        self._refuse_other_copies("training on")
        check_defaults()
        check_grad_mode("training")
        self.total_iterations = max(total_iterations, 1)
        check_world_size(self.ranks)
        if self.ranks > 1:
            require_equal(self._common())
        if not self.started:
            self._begin(rank_seed(self.seed))
            self.started = True
        in_a_row = 0
        while self.iteration < total_iterations:
            start, faults = time.process_time(), self._faults
            with self.env.restarting_broken() if self.leaves_out_broken else nullcontext():
                report = self.iterate() | self.env.episode_report()
            self.iteration += 1
            in_a_row = in_a_row + 1 if self._faults > faults else 0
            if in_a_row == IN_A_ROW:
                warnings.warn(_NOT_FINITE, RuntimeWarning, stacklevel=2)
            if self.ema_actor is not None:
                self.ema_actor.update_parameters(self.actor)
            report["skipped_updates"] = float(self.skipped)
            report["broken_copies"] = float(self.broken_copies.count)
            report["dropped_gradients"] = float(self.env.gradient_guard.dropped)
            report["env_steps"] = float(self.env_steps)
            report["update_cpu_seconds"] = time.process_time() - start
            yield joint(report, self.env.reported_episodes)

    def state_dict(self) -> State:
        """Return the whole state of the training, in tensors and plain numbers.

        Of several processes all call it, and the first gets the state of all.
        """
        self._refuse_other_copies("saving")
        check_world_size(self.ranks)
        state = self._own_state()
        others = states_at_rank_0(state)[1:] if self.ranks > 1 else []
        return state | ({"other_ranks": others} if others else {})

    def _own_state(self) -> State:
        """Return the state of this process."""
        return self._state() | {
            "parts": {name: _plain(part.state_dict()) for name, part in self._parts.items()},
            "predictor": self._predictor_state(),
            "streams": {name: stream.get_state() for name, stream in self._streams.items()},
            "trainer": type(self).__name__,
            "config": asdict(self.config),
            "iteration": self.iteration,
            "broken_copies": self.broken_copies.count,
            "total_iterations": self.total_iterations,
            "started": self.started,
            "seed": self.seed,
            "shape": list(self._shape),
            "num_envs": self.env.num_envs,
            "env": self._env_state(),
            "learned": self.env.state_dict(),
        }

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned; an env that cannot save its state is reset.

        Raises:
            UsageError: the state is of another configuration or env, or has weights that are not
                finite; or of more or fewer processes than now.
        """
        ranks = ranks_of(state)
        if world_size() > 1:
            check_world_size(ranks)
        state = [state, *state.get("other_ranks", [])][rank()]
        check_same_config(state.get("config", {}), asdict(self.config))
        shape = tuple(state.get("shape", self._shape))
        if shape != self._shape:
            raise UsageError(
                f"the checkpoint is of an env with (agents, obs_dim, act_dim) = {shape}, this one "
                f"has {self._shape}; make it with the arguments it had then"
            )
        copies = state.get("num_envs", self.env.num_envs)
        try:
            self._saved_copies = None if copies == self.env.num_envs else copies
            if self._saved_copies is not None:
                self.load_policy(state)
                return
            self._check_weights(state)
            for name, part in self._parts.items():
                part.load_state_dict(copy.deepcopy(state["parts"][name]))  # not to share tensors
            self._load_state(state)
            for name, stream in self._streams.items():
                stream.set_state(state["streams"][name].cpu())
            self.iteration = state["iteration"]
            self.broken_copies.count = state["broken_copies"]
            self.total_iterations = state["total_iterations"]
            self.started = state["started"]
            self.seed = state["seed"]
            self.ranks = ranks
            if state["env"] is not None:
                self.env.set_state(state["env"])
            elif self.started:
                self._begin(rank_seed(derive_env_seed(self.seed, f"restart {self.iteration}")))
            self.env.load_state_dict(state["learned"])
        except UsageError:
            raise
        except (KeyError, RuntimeError, TypeError, AttributeError, ValueError) as error:
            raise UsageError(
                f"the checkpoint does not fit this env and configuration ({error}); make both as "
                "they were when it was saved"
            ) from error

    def load_policy(self, state: State) -> None:
        """Take only what `predict` and `policy` need of the state of a trainer.

        Raises:
            UsageError: the weights are not finite.
        """
        check_finite(state["predictor"], "predictor", self.predictor)
        self.predictor.load_state_dict(state["predictor"])

    def _refuse_other_copies(self, what: str) -> None:
        """Refuse what needs more than the policy, if that is all that was loaded."""
        if self._saved_copies is not None:
            raise UsageError(
                f"{what} needs the state of all copies that were trained on: the checkpoint is of "
                f"num_envs={self._saved_copies}, but was loaded onto an env with "
                f"{self.env.num_envs}, where the policy only acts; give load an env with "
                f"num_envs={self._saved_copies}"
            )

    def _check_weights(self, state: State) -> None:
        """Refuse modules and optimisers that are not finite; what else is saved may be."""
        for name, part in self._parts.items():
            if isinstance(part, nn.Module):
                check_finite(state["parts"][name], name, part)
            elif isinstance(part, ClippedAdam):
                check_finite(state["parts"][name], name)

    def _begin(self, seed: int) -> None:
        """Reset the env and, if configured, randomise its episodes' phases."""
        self.env.reset(seed=seed)
        if self.config.randomise_episode_phase:
            self.env.randomise_episode_phase(self.minibatch_rng, self._phase_step)

    def _common(self) -> dict[str, Any]:
        """Return what must be the same on all ranks, weights as a digest."""
        digest = hashlib.sha256()
        modules = [part for part in self._parts.values() if isinstance(part, nn.Module)]
        weights = [weight.detach() for module in modules for weight in module.parameters()]
        models = self.env.state_dict().get("models", {})
        for tensor in (*weights, *models.values()):
            digest.update(tensor.cpu().flatten().view(torch.uint8).numpy().tobytes())
        return {
            "the trainer": type(self).__name__,
            "seed": self.seed,
            "config": asdict(self.config),
            "the env": f"{type(self.env).__name__} of {self.env.num_envs} copies",
            "the update": f"{self.iteration} of {self.total_iterations}",
            "the digest of the weights": digest.hexdigest(),
        }

    def _use_actor(self, actor: Actor, ema_decay: float) -> None:
        """Set the policy, and predict with its EMA if `ema_decay` > 0.

        Raises:
            UsageError: agents act one after another, which several processes cannot train.
        """
        if actor.config.order != "simultaneous":
            refuse_ranks(f"{type(self).__name__} with agents that act one after another")
        self.actor = actor.to(self.env.device)
        self.register(actor=self.actor)
        if ema_decay > 0:
            self.ema_actor = ema_of(self.actor, ema_decay)
            self.register(ema_actor=self.ema_actor)

    @abstractmethod
    def iterate(self) -> Metrics:
        """Collect a window, learn from it and return metrics."""

    def as_on_all_ranks(self, window: Window) -> Window:
        """Return the window, with an alive mask if that of any rank has one."""
        return window.with_alive_mask() if is_any(window.alive_mask is not None) else window

    def _state(self) -> State:
        """Return state of subclasses that is not in a registered part."""
        return {}

    def _load_state(self, state: State) -> None:  # noqa: B027 (optional)
        """Restore what `_state` returned."""

    @property
    def _streams(self) -> dict[str, torch.Generator]:
        return {
            "noise": self.noise_rng,
            "minibatches": self.minibatch_rng,
            "samples": self.predict_rng,
        }

    def _predictor_state(self) -> State:
        """Return the weights of `predictor`."""
        return dict(self.predictor.state_dict())

    @property
    def _phase_step(self) -> int:
        """Granularity of random episode phases, in steps.

        A window, so that groups of envs are reset together at its end; 1 if there would be fewer
        than 8 phases.
        """
        horizon: int = self.config.horizon
        return horizon if (self.env.max_steps or 0) >= 8 * horizon else 1

    @property
    def predictor(self) -> Actor:
        """The policy that `predict` uses: the actor, or its EMA."""
        if self.ema_actor is None:
            return self.actor
        ema = self.ema_actor.module
        assert isinstance(ema, Actor)
        return ema

    @property
    def _shape(self) -> tuple[int, int, int]:
        return (self.env.num_agents, self.env.obs_dim, self.env.act_dim)

    def _env_state(self) -> State | None:
        """Return the env's state; None if it cannot save one."""
        if not self.started:
            return None
        try:
            return self.env.state()
        except NotImplementedError:
            return None


def _saved_config(kind: type[Trainer], state: State, path: str | Path) -> Any:
    """Return the configuration that a trainer of a kind was saved with.

    Raises:
        UsageError: the file is of a trainer that is set by another one.
    """
    try:
        return config_from_dict(kind.config_type, state.get("config", {}))
    except UsageError as error:
        saved = state.get("trainer", kind.__name__)  # 0.2.0 did not tell
        if saved == kind.__name__:
            raise
        raise UsageError(
            f"{path} is of {saved}, not of {kind.__name__}; load it by {saved}.load(path, env)"
        ) from error


def ranks_of(state: State) -> int:
    """Return of how many processes the state of a training is."""
    return 1 + len(state.get("other_ranks", []))


def _plain(state: Any) -> Any:
    """Convert a module's state to a plain dict, for loading with `weights_only`."""
    return dict(state) if isinstance(state, dict) else state

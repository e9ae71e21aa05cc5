"""The learned models of an env, their replay buffers, training and errors.

In data-parallel training every rank has its own buffers, and the models are the same on all.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.profiler import record_function

from diffsurrogate.data.replay import StratifiedReplay, finite_items
from diffsurrogate.distributed import (
    fewest,
    is_any,
    rank_seed,
    share,
    sum_over_ranks,
)
from diffsurrogate.envs.action_space import ActionSpace
from diffsurrogate.envs.window import Window
from diffsurrogate.errors import UsageError
from diffsurrogate.functional.discrete_actions import mixup_loss
from diffsurrogate.nets.normaliser import OrdinaryRange, ValuesSeen, mark_padding
from diffsurrogate.optimisation import ClippedAdam, mean_report
from diffsurrogate.seeding import derive_seed, seeded
from diffsurrogate.surrogates.action_world_model import ActionWorldModel, ActionWorldModelConfig
from diffsurrogate.surrogates.config import SurrogateConfig
from diffsurrogate.surrogates.dynamics import LearnedDynamics
from diffsurrogate.surrogates.given_models import GivenModelErrors, GivenReward, as_dynamics
from diffsurrogate.surrogates.heads import RewardModel, RewardTrust, TerminationModel
from diffsurrogate.surrogates.held_out import fvu, fvu_of_change, some_envs
from diffsurrogate.surrogates.step_model import StepModel, StepModelConfig

_Judged = tuple[Tensor, Tensor]
"""Predicted and real rewards (item,)."""


class Surrogates(nn.Module):
    """Reward, dynamics and termination models of one env, with their replay buffers."""

    def __init__(
        self,
        config: SurrogateConfig,
        *,
        obs_dim: int,
        action_space: ActionSpace,
        reward: bool | nn.Module = True,
        dynamics: bool | nn.Module = True,
        continuous: Tensor | None = None,
        seed: int = 0,
    ) -> None:
        """Build the models.

        Args:
            config: models and training budget.
            obs_dim: features of one agent's observation.
            action_space: of all agents.
            reward: True to learn one, False for none, or a ready module of (obs, action, next_obs).
            dynamics: likewise; a ready module maps (obs, action) to the next observation, or is a
                `DynamicsModel`.
            continuous: (agent, obs_dim) bool, the features a gradient may pass; detected if None.
            seed: of initial weights and minibatches.
        """
        super().__init__()
        self.config = config
        self.action_space = action_space
        low = action_space.low
        sizes = (len(low), obs_dim, low.shape[-1])
        self.continuous = ContinuousFeatures(len(low), obs_dim, continuous)
        with seeded(derive_seed(seed, "models")):
            model, self.own_reward = _model(reward, lambda: RewardModel(config.reward, *sizes))
            self.reward = model if model is None or self.own_reward else GivenReward(model)
            model, self.own_dynamics = _model(
                dynamics, lambda: build_dynamics(config.dynamics, *sizes)
            )
            self.dynamics = None if model is None else as_dynamics(model)
            self.termination = TerminationModel(config.reward.net, *sizes)
        self.key_range = OrdinaryRange(1)
        self.to(low.device)
        self.generator = torch.Generator().manual_seed(
            derive_seed(rank_seed(seed), "model minibatches")
        )
        fit = config.fit
        self.optimisers = {
            name: ClippedAdam(module, fit.lr, max_grad_norm=fit.max_grad_norm)
            for name, module in self._trained().items()
        }
        for module in (*self._trained().values(), self.termination):
            module.requires_grad_(False)  # a user's module stays unchanged
        capacity = share(fit.capacity)
        self.transition_buffer = StratifiedReplay(capacity, fit.reward_bins, low.device)
        items = max(1, 2 * fit.capacity // fit.dynamics_bins)
        if self.own_dynamics:
            items = self._learned_dynamics.items_for(items)
        self.dynamics_buffer = StratifiedReplay(share(items), fit.dynamics_bins, low.device)
        self.termination_buffer = StratifiedReplay(capacity, 2, low.device)
        self.fits = 0
        self.trust = RewardTrust()
        given = {"reward": reward, "dynamics": dynamics}
        self.given = [
            GivenModelErrors(name) for name, model in given.items() if isinstance(model, nn.Module)
        ]
        self.terminations_seen = 0
        self.steps_seen = 0

    def leave_out_padding(self, mask: Tensor) -> None:
        """Leave padding out of all statistics; `mask` (agent, obs_dim) is False there."""
        mark_padding(self, mask)

    # --- models ------------------------------------------------------------------------------

    def dynamics_action(self, action: Tensor) -> Tensor:
        """Return actions, already within their bounds, in the dynamics model's units."""
        return self.action_space.normalise(action) if self.own_dynamics else action

    def predict_reward(self, obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        """Return predicted rewards `(*batch, agent)` for actions within their bounds."""
        assert self.reward is not None
        if not self.own_reward:
            ready: Tensor = self.reward(obs, action, next_obs)
            return ready
        out: Tensor = self.reward(obs, self.action_space.normalise(action), next_obs)
        return out

    def predict_continuation(self, obs: Tensor, action: Tensor) -> Tensor:
        """Return the predicted probability that the episode continues, `(*batch,)`."""
        return torch.sigmoid(-self.termination(obs, self.action_space.normalise(action)))

    # --- training ------------------------------------------------------------------------------

    @record_function("model update")
    def fit(self, window: Window) -> dict[str, float]:
        """Measure the errors on a new window, then store it and train from the replay buffers.

        Returns:
            reward_error (on ordinary rewards) and dynamics_error (fraction of variance unexplained:
            0 is perfect, 1 no better than the mean), event_rate and event_error (cross-entropy
            over that of the mean rate), termination_error (cross-entropy in nats), buffer sizes,
            and training losses.
        """
        window = window.detach()
        known = some_envs(window, share(32)).finite_part()
        measurable = self.fits > 0 and fewest(known.reward.shape[1]) > 0
        report = self._evaluate(known) if measurable else {}
        if self.own_reward and self.fits:
            report["model_trust"] = self.trust.value
        self.store(window)
        if not self._can_train():
            return report
        self.fits += 1
        if self.fits % self.config.fit.every == 0:
            report |= self.train_models(self.config.fit.minibatches)
        return report

    @torch.no_grad()
    def store(self, window: Window) -> None:
        """Add a window to the replay buffers and the statistics."""
        action = self.action_space.executed(window.action)
        flat = {
            "obs": window.obs.flatten(0, 1),
            "action": self.action_space.normalise(action).flatten(0, 1),
            "next_obs": window.next_obs.flatten(0, 1),
            "reward": window.reward.flatten(0, 1),
            "terminated": window.terminated.flatten().float(),
        }
        if window.alive_mask is not None:
            flat["alive"] = window.alive_mask.flatten(0, 1)
        flat = finite_items(flat)
        if fewest(len(flat["obs"])) == 0:
            return
        alive = flat.pop("alive", None)
        self.continuous.update(flat["next_obs"])
        if self.own_reward:
            model = self._learned_reward
            model.ordinary.update(flat["reward"])
            model.events.count(model.ordinary.holds(flat["reward"]))
            key = flat["reward"].sum(-1)
            self.key_range.update(key.unsqueeze(-1))
            within = (float(self.key_range.low), float(self.key_range.high))
            self.transition_buffer.add(key, flat, within)
        if self.own_dynamics:
            normalised = self.action_space.normalise(action)
            items = finite_items(self._learned_dynamics.items(window, normalised))
            self.dynamics_buffer.add(items.pop("key"), items)
        if self.config.termination:
            ended = flat["terminated"]
            self.terminations_seen += int(sum_over_ranks(ended.double().sum()))
            self.steps_seen += int(sum_over_ranks(torch.tensor(len(ended))))
            items = {name: flat[name] for name in ("obs", "action", "terminated")}
            self.termination_buffer.add(items["terminated"], items)
        if self._can_train():
            self._update_statistics(flat, alive)

    def train_models(self, minibatches: int) -> dict[str, float]:
        """Train each model on `minibatches` minibatches from its buffer; return mean losses."""
        report = {}
        for name, optimiser in self.optimisers.items():
            metric = f"{name}_loss"
            if name == "termination" and not self.terminations_seen:
                report[metric] = 0.0
                continue
            losses = []
            with _trainable(self._trained()[name]):
                for _ in range(minibatches):
                    loss = self._loss(name)
                    optimiser.step(loss)
                    losses.append({metric: loss.detach()})
            report |= mean_report(losses)
        return report | ({"skipped_model_updates": float(self.skipped)} if report else {})

    @property
    def skipped(self) -> int:
        """Number of gradients that were not finite and were skipped."""
        return sum(optimiser.skipped for optimiser in self.optimisers.values())

    def held_out_errors(self, window: Window) -> dict[str, float]:
        """Return the models' errors on a window, which should not have been trained on."""
        return self._errors(window, self._predict(window))[0]

    @torch.no_grad()
    def _predict(self, window: Window) -> Tensor | None:
        """Return the next observations predicted along a window; None without a model."""
        if self.dynamics is None:
            return None
        action = self.dynamics_action(self.action_space.executed(window.action))
        return self.dynamics.predict(window, action)

    @torch.no_grad()
    def _errors(
        self, window: Window, predicted_next: Tensor | None
    ) -> tuple[dict[str, float], _Judged | None]:
        """Return the errors on a window, and the learned model's rewards beside the real ones."""
        judged = None
        action = self.action_space.executed(window.action)
        report = {
            "cached_transitions": float(len(self.transition_buffer)),
            "continuous_features": float(self.continuous.mask.float().mean()),
        }
        if self.own_reward:
            errors, judged = self._reward_errors(window, action)
            report |= errors
        elif self.reward is not None:
            predicted = self.predict_reward(window.obs, action, window.next_obs)
            report["reward_error"] = fvu(predicted, window.reward)
        if predicted_next is not None:
            assert self.dynamics is not None
            features, usual = self.continuous.mask, self.dynamics.usual_change
            report["dynamics_error"] = fvu_of_change(predicted_next, window, features, usual)
        if self.config.termination and self.terminations_seen:
            logit = self.termination(window.obs, self.action_space.normalise(action))
            target = window.terminated.float()
            report["termination_error"] = float(binary_cross_entropy_with_logits(logit, target))
        return report, judged

    # --- saving ----------------------------------------------------------------------------------

    def training_state(self) -> dict[str, Any]:
        """Return buffers, optimisers, counters and random state (weights are in `state_dict`)."""
        return {
            "optimisers": {name: opt.state_dict() for name, opt in self.optimisers.items()},
            "transition_buffer": self.transition_buffer.state_dict(),
            "dynamics_buffer": self.dynamics_buffer.state_dict(),
            "termination_buffer": self.termination_buffer.state_dict(),
            "generator": self.generator.get_state(),
            "fits": self.fits,
            "trust": self.trust.state_dict(),
            "terminations_seen": self.terminations_seen,
            "steps_seen": self.steps_seen,
        }

    def load_training_state(self, state: dict[str, Any]) -> None:
        """Restore what `training_state` returned."""
        for name, optimiser in self.optimisers.items():
            # a copy, as Adam would share the tensors
            optimiser.load_state_dict(copy.deepcopy(state["optimisers"][name]))
        self.transition_buffer.load_state_dict(state["transition_buffer"])
        self.dynamics_buffer.load_state_dict(state["dynamics_buffer"])
        self.termination_buffer.load_state_dict(state["termination_buffer"])
        self.generator.set_state(state["generator"].cpu())  # loading may have moved it to a GPU
        self.fits = state["fits"]
        self.trust.load_state_dict(state["trust"])
        self.terminations_seen = state["terminations_seen"]
        self.steps_seen = state["steps_seen"]

    # --- internals -------------------------------------------------------------------------------

    def _evaluate(self, window: Window) -> dict[str, float]:
        """Return the errors on a new window; update the dynamics model's R² and the trust."""
        predicted = self._predict(window)
        if self.own_dynamics and predicted is not None:
            self._learned_dynamics.evaluate(window, predicted)
        report, judged = self._errors(window, predicted)
        if judged is not None and bool(self._learned_reward.ordinary.dense.all()):
            # a few rare rewards say nothing of the slope that leads to them
            self.trust.update(*judged)
        for errors in self.given:
            errors.update(report)
        return report

    def _trained(self) -> dict[str, nn.Module]:
        """Return the models to train, by name."""
        models: dict[str, nn.Module] = {}
        if self.own_reward and self.reward is not None:
            models["reward"] = self.reward
        if self.own_dynamics and self.dynamics is not None:
            models["dynamics"] = self.dynamics
        if self.config.termination:
            models["termination"] = self.termination
        return models

    def _reward_errors(self, window: Window, action: Tensor) -> tuple[dict[str, float], _Judged]:
        """Return the errors on ordinary rewards and on events, and ordinary rewards (item,)."""
        model, reward = self._learned_reward, window.reward
        ordinary = model.ordinary.holds(reward)
        normalised = self.action_space.normalise(action)
        predicted, logit, _ = model.parts(window.obs, normalised, window.next_obs)
        kept = ordinary if bool(ordinary.any()) else torch.ones_like(ordinary)
        judged = predicted[kept], reward[kept]
        report = {"reward_error": fvu(*judged)}
        if logit is None:
            return report, judged
        event = (~ordinary).to(logit.dtype)
        without = torch.logit(model.events.rate, eps=1e-6).expand_as(logit)
        error, base = (
            float(binary_cross_entropy_with_logits(odds, event)) for odds in (logit, without)
        )
        report |= {"event_rate": float(event.mean()), "event_error": error / max(base, 1e-9)}
        return report, judged

    def _can_train(self) -> bool:
        """Return whether every replay buffer in use has data."""
        buffers = {"reward": self.transition_buffer, "dynamics": self.dynamics_buffer}
        used = [buffers[name] for name in self._trained() if name in buffers]
        return not is_any(any(len(buffer) == 0 for buffer in used))

    def _rewards(self) -> dict[str, Tensor]:
        size, balance = share(self.config.fit.batch_size), self.config.fit.reward_balance
        return self.transition_buffer.sample(size, self.generator, balance)

    def _update_statistics(self, flat: dict[str, Tensor], alive: Tensor | None) -> None:
        if self.own_reward:
            steps = (flat["obs"], flat["next_obs"], flat["reward"], alive)
            self._learned_reward.update_normaliser(*steps)
            self._learned_reward.update_units(self._rewards()["reward"])
        if self.own_dynamics:
            self._learned_dynamics.update_normaliser(
                flat["obs"],
                flat["next_obs"],
                lambda count: self.dynamics_buffer.sample(share(count), self.generator, 0.0),
                alive,
            )
        if self.config.termination:
            self.termination.obs_statistics.update(flat["obs"], alive)
            self.termination.obs_statistics.snapshot()

    def _loss(self, name: str) -> Tensor:
        size = self.config.fit.batch_size
        response: Callable[[], Callable[[Tensor], Tensor] | None]
        if name == "reward":
            batch = self._rewards()
            loss = self._learned_reward.loss(batch)
            response = partial(self._learned_reward.response, batch)
        elif name == "termination":
            batch = self.termination_buffer.sample(share(size), self.generator, balance=0.5)
            loss = self.termination.loss(batch, self.terminations_seen / self.steps_seen)
            response = partial(self.termination.response, batch)
        else:
            model, mask = self._learned_dynamics, self.continuous.mask
            batch = self.dynamics_buffer.sample(share(model.batch_size(size)), self.generator)
            loss, response = model.loss(batch, mask), partial(model.response, batch, mask)
        if not self.action_space.discrete or self.config.fit.mixup_weight == 0:
            return loss
        predict = response()
        if predict is None:
            return loss
        mixup = mixup_loss(predict, batch["action"], self.generator)
        return loss + self.config.fit.mixup_weight * mixup

    @property
    def _learned_reward(self) -> RewardModel:
        return cast(RewardModel, self.reward)

    @property
    def _learned_dynamics(self) -> LearnedDynamics:
        return cast(LearnedDynamics, self.dynamics)


def _model(given: bool | nn.Module, build: Any) -> tuple[nn.Module | None, bool]:
    """Return the model and whether it is trained here.

    Raises:
        UsageError: `given` is neither a bool nor a module.
    """
    if not isinstance(given, bool | nn.Module):
        raise UsageError(
            f"a model is chosen by {given!r}; give True to learn one, False for the env's native "
            "gradient, or a torch module"
        )
    if isinstance(given, nn.Module):
        return given, False
    return (build(), True) if given else (None, False)


@contextmanager
def _trainable(module: nn.Module) -> Iterator[None]:
    """Let weights require a gradient in training only: the policy's backward pass is cheaper."""
    module.requires_grad_(True)
    try:
        yield
    finally:
        module.requires_grad_(False)


def build_dynamics(
    config: StepModelConfig | ActionWorldModelConfig, agents: int, obs_dim: int, act_dim: int
) -> LearnedDynamics:
    """Build the configured dynamics model."""
    if isinstance(config, ActionWorldModelConfig):
        return ActionWorldModel(config, agents, obs_dim, act_dim)
    return StepModel(config, agents, obs_dim, act_dim)


class ContinuousFeatures(nn.Module):
    """Detects the observation features that a gradient may pass through.

    Flags and one-hots are not differentiable functions of the state, and their spurious Jacobians
    explode along a window. A feature counts as discrete until it takes a fractional value, or more
    whole numbers than flags and categories do (`ValuesSeen`).
    """

    seen: Tensor
    fixed: Tensor

    def __init__(self, agents: int, obs_dim: int, continuous: Tensor | None = None) -> None:
        """Start with all features discrete.

        Args:
            agents: number of agents.
            obs_dim: features of one agent.
            continuous: (agent, obs_dim) or (obs_dim,) bool, given instead of detected.
        """
        super().__init__()
        self.register_buffer("seen", torch.zeros(agents, obs_dim, dtype=torch.bool))
        self.values = ValuesSeen((agents, obs_dim))
        self.register_buffer("fixed", torch.tensor(continuous is not None))
        if continuous is not None:
            given = torch.as_tensor(continuous).cpu()
            if given.dtype != torch.bool or given.shape not in (self.seen.shape, (obs_dim,)):
                raise UsageError(
                    f"continuous is {given.dtype} of shape {tuple(given.shape)}; a bool tensor of "
                    f"(agent, obs_dim) = {tuple(self.seen.shape)} or (obs_dim,) is needed"
                )
            self.seen |= given

    @property
    def mask(self) -> Tensor:
        """(agent, obs_dim) bool: True for continuous features."""
        return self.seen

    @torch.no_grad()
    def update(self, obs: Tensor) -> None:
        """Update the mask with observations `(*any, agent, obs_dim)`."""
        if bool(self.fixed) or bool(self.seen.all()):
            return
        unsure = ~self.seen
        self.values.update(obs.reshape(-1, *self.seen.shape)[:, unsure].double(), unsure)
        self.seen |= self.values.measurement

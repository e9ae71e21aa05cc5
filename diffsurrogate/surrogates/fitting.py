"""The learned models beside an env, their caches, their training budget and their errors."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from diffsurrogate.data.replay import StratifiedReplay, finite_items
from diffsurrogate.data.segments import Segments, padded
from diffsurrogate.envs.window import Window
from diffsurrogate.errors import UsageError
from diffsurrogate.functional.discrete_actions import mixup_loss, one_hot_argmax
from diffsurrogate.seeding import derive_seed
from diffsurrogate.surrogates.action_world_model import ActionWorldModel, trajectory_loss
from diffsurrogate.surrogates.config import SurrogateConfig
from diffsurrogate.surrogates.errors import fvu, fvu_of_change, some_envs
from diffsurrogate.surrogates.features import ContinuousFeatures
from diffsurrogate.surrogates.heads import RewardModel, TerminationModel
from diffsurrogate.surrogates.step_model import StepModel

Batch = dict[str, Tensor]
Mixtures = Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]
"""Takes what predicts from actions, and the actions; returns the error on mixtures of choices."""


def reward_loss(model: RewardModel, batch: Batch, mixtures: Mixtures) -> Tensor:
    """Return the reward model's own loss and that on mixtures, in deviations of the reward."""
    obs, action, next_obs = batch["obs"], batch["action"], batch["next_obs"]

    def predict(action: Tensor) -> Tensor:
        reward: Tensor = model(_as_many(obs, action), action, _as_many(next_obs, action))
        return reward / model.reward_statistics.std

    return model.loss(obs, action, next_obs, batch["reward"]) + mixtures(predict, action)


def step_loss(model: StepModel, batch: Batch, continuous: Tensor, mixtures: Mixtures) -> Tensor:
    """Return the step model's own loss and that on mixtures, in deviations of the changes.

    Only entries count that are `continuous` (agent, obs_dim).
    """
    obs, action = batch["obs"], batch["action"]
    mask = continuous.to(obs.dtype)

    def predict(action: Tensor) -> Tensor:
        after: Tensor = model(_as_many(obs, action), action)
        return after * (mask / model.change_statistics.std)

    return model.loss(obs, action, batch["next_obs"], mask) + mixtures(predict, action)


def termination_loss(
    model: TerminationModel, batch: Batch, rate: float, mixtures: Mixtures
) -> Tensor:
    """Return the cross-entropy, weighted as if both ends were drawn as often as they happen.

    Args:
        model: gives logits.
        batch: with `terminated` (batch,), drawn evenly.
        rate: share of steps that terminate.
        mixtures: error on mixtures of choices, of probabilities.
    """
    obs, action, target = batch["obs"], batch["action"], batch["terminated"]
    drawn = target.mean().clamp(0.01, 0.99)
    weight = torch.where(target > 0, rate / drawn, (1 - rate) / (1 - drawn))

    def predict(action: Tensor) -> Tensor:
        return torch.sigmoid(model(_as_many(obs, action), action))

    loss = binary_cross_entropy_with_logits(model(obs, action), target, weight)
    return loss + mixtures(predict, action)


def _as_many(rows: Tensor, action: Tensor) -> Tensor:
    """Repeat rows until there are as many as of the actions."""
    return rows.repeat(len(action) // len(rows), *[1] * (rows.dim() - 1))


class Surrogates(nn.Module):
    """Reward model, dynamics model and termination head of one env, and all they learn from."""

    def __init__(
        self,
        config: SurrogateConfig,
        *,
        agents: int,
        obs_dim: int,
        low: Tensor,
        high: Tensor,
        reward: bool | nn.Module = True,
        dynamics: bool | nn.Module = True,
        continuous: Tensor | None = None,
        discrete: bool = False,
        seed: int = 0,
    ) -> None:
        """Build what is to be learned.

        Args:
            config: models and budget.
            agents: number of agents.
            obs_dim: features of one agent's observation.
            low: (agent, act_dim) lower bound of the actions.
            high: (agent, act_dim) upper bound of the actions.
            reward: True to learn, False for none, or a ready module of (obs, action, next_obs).
            dynamics: likewise; a ready module maps (obs, action) to the next observation, or is
                an `ActionWorldModel`.
            continuous: (agent, obs_dim) bool, where a gradient may pass; found out if None.
            discrete: actions are choices, one-hot rows in the box [0, 1].
            seed: of initial weights and minibatches.
        """
        super().__init__()
        self.config = config
        self.discrete = discrete
        self.register_buffer("action_bias", (low + high) / 2)
        self.register_buffer("action_scale", ((high - low) / 2).clamp(min=1e-8))
        act_dim = low.shape[-1]
        sizes = (agents, obs_dim, act_dim)
        self.continuous = ContinuousFeatures(agents, obs_dim, continuous)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "models"))
            self.reward, self.own_reward = _model(
                reward, lambda: RewardModel(config.reward, *sizes)
            )
            self.dynamics, self.own_dynamics = _model(
                dynamics,
                lambda: (
                    StepModel(config.step, *sizes)
                    if config.model == "step"
                    else ActionWorldModel(config.awm, *sizes)
                ),
            )
            self.termination = TerminationModel(config.reward.net, *sizes)
        self.to(low.device)
        for module in (*self._trained().values(), self.termination):
            module.requires_grad_(False)  # but for a module of the user's: that stays as it is
        self.generator = torch.Generator().manual_seed(derive_seed(seed, "model minibatches"))
        self.optimisers = {
            name: torch.optim.Adam(module.parameters(), lr=config.learning_rate, fused=True)
            for name, module in self._trained().items()
        }
        bins = config.reward_bins
        self.transition_buffer = StratifiedReplay(config.capacity, bins, low.device)
        kept = self._dynamics_capacity()
        self.dynamics_buffer = StratifiedReplay(kept, config.dynamics_bins, low.device)
        self.termination_buffer = StratifiedReplay(config.capacity, 2, low.device)
        self.fits = 0
        self.skipped = 0
        self.terminations_seen = 0
        self.steps_seen = 0

    # --- models ------------------------------------------------------------------------------

    def normalise_action(self, action: Tensor) -> Tensor:
        """Return actions in half boxes from the middle, as the models take them."""
        center, half = self.action_bias, self.action_scale
        assert isinstance(center, Tensor)
        assert isinstance(half, Tensor)
        return (action - center) / half

    def predict_reward(self, obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        """Return modelled rewards `(*batch, agent)` of actions in the box."""
        assert self.reward is not None
        if not self.own_reward:
            ready: Tensor = self.reward(obs, action, next_obs)
            return ready
        out: Tensor = self.reward(obs, self.normalise_action(action), next_obs)
        return out

    def predict_continuation(self, obs: Tensor, action: Tensor) -> Tensor:
        """Return the modelled probability that the episode goes on, `(*batch,)`."""
        return torch.sigmoid(-self.termination(obs, self.normalise_action(action)))

    # --- training ------------------------------------------------------------------------------

    def fit(self, window: Window) -> dict[str, float]:
        """Measure the errors on a window not seen before, then learn from it and from the caches.

        Returns:
            reward_error and dynamics_error (mean squared error over the variance of the target:
            0 is perfect, 1 is no better than the mean), termination_error (cross-entropy, nats),
            cache sizes, and the training losses.
        """
        window = window.detach()
        report = self._unseen(some_envs(window)) if self.fits else {}
        self.store(window)
        if not self._has_data():
            return report
        self.fits += 1
        if self.fits % self.config.fit_every == 0:
            report |= self.train_models(self.config.minibatches)
        return report

    @torch.no_grad()
    def store(self, window: Window) -> None:
        """Put a window into the caches and the statistics."""
        action = self._box(window.action)
        flat = {
            "obs": window.obs.flatten(0, 1),
            "action": self.normalise_action(action).flatten(0, 1),
            "next_obs": window.next_obs.flatten(0, 1),
            "reward": window.reward.flatten(0, 1),
            "terminated": window.terminated.flatten().float(),
        }
        flat = finite_items(flat)
        self.continuous.update(flat["next_obs"])
        if self.own_reward:
            self.transition_buffer.add(flat["reward"].sum(-1), flat)
        if self.own_dynamics and isinstance(self.dynamics, StepModel):
            kept = {name: flat[name] for name in ("obs", "action", "next_obs")}
            self.dynamics_buffer.add(flat["reward"].sum(-1), kept)
        elif self.own_dynamics:
            segments = Segments.of(window)
            reward = segments.gather(window.reward) * segments.valid.unsqueeze(-1)
            longest = self.config.awm.max_horizon
            kept = {
                "obs": segments.first(window.obs),
                "action": padded(segments.gather(self.normalise_action(action)), longest),
                "next_obs": padded(segments.gather(window.next_obs), longest),
                "valid": padded(segments.valid, longest),
                "return": reward.sum((1, 2)),
            }
            kept = finite_items(kept)
            self.dynamics_buffer.add(kept.pop("return"), kept)
        if self.config.termination:
            self.terminations_seen += int(flat["terminated"].sum())
            self.steps_seen += len(flat["terminated"])
            kept = {"obs": flat["obs"], "action": flat["action"], "terminated": flat["terminated"]}
            self.termination_buffer.add(kept["terminated"], kept)
        if self._has_data():
            self._update_statistics(flat)

    def train_models(self, minibatches: int) -> dict[str, float]:
        """Train each model on `minibatches` minibatches from its cache; return mean losses."""
        losses = {name: 0.0 for name in self.optimisers}
        for name, optimiser in self.optimisers.items():
            module = self._trained()[name]
            if name == "termination" and not self.terminations_seen:
                continue
            with _trainable(module):
                for _ in range(minibatches):
                    loss = self._loss(name)
                    optimiser.zero_grad(set_to_none=True)
                    loss.backward()
                    norm = nn.utils.clip_grad_norm_(module.parameters(), self.config.clip)
                    if bool(torch.isfinite(norm)):
                        optimiser.step()
                    else:
                        self.skipped += 1
                    losses[name] += float(loss.detach()) / minibatches
        report = {f"{name}_loss": loss for name, loss in losses.items()}
        return report | ({"skipped_model_updates": float(self.skipped)} if report else {})

    @torch.no_grad()
    def held_out_errors(self, window: Window) -> dict[str, float]:
        """Return the models' errors on a window; honest only if it was not trained on."""
        action = self._box(window.action)
        report = {
            "cached_transitions": float(len(self.transition_buffer)),
            "continuous_features": float(self.continuous.mask.float().mean()),
        }
        if self.reward is not None:
            predicted = self.predict_reward(window.obs, action, window.next_obs)
            report["reward_error"] = fvu(predicted, window.reward)
        if isinstance(self.dynamics, ActionWorldModel):
            segments = Segments.of(window)
            scaled = segments.gather(self.normalise_action(action) if self.own_dynamics else action)
            predicted = segments.scatter(self.dynamics(segments.first(window.obs), scaled))
            report["dynamics_error"] = fvu_of_change(predicted, window, self.continuous.mask)
        elif self.dynamics is not None:
            scaled = self.normalise_action(action) if self.own_dynamics else action
            report["dynamics_error"] = fvu_of_change(
                self.dynamics(window.obs, scaled), window, self.continuous.mask
            )
        if self.config.termination and self.terminations_seen:
            logit = self.termination(window.obs, self.normalise_action(action))
            target = window.terminated.float()
            report["termination_error"] = float(binary_cross_entropy_with_logits(logit, target))
        return report

    # --- saving ----------------------------------------------------------------------------------

    def training_state(self) -> dict[str, Any]:
        """Return caches, optimisers, counters and randomness (weights are in `state_dict`)."""
        return {
            "optimisers": {name: opt.state_dict() for name, opt in self.optimisers.items()},
            "transition_buffer": self.transition_buffer.state_dict(),
            "dynamics_buffer": self.dynamics_buffer.state_dict(),
            "termination_buffer": self.termination_buffer.state_dict(),
            "generator": self.generator.get_state(),
            "fits": self.fits,
            "skipped": self.skipped,
            "terminations_seen": self.terminations_seen,
            "steps_seen": self.steps_seen,
        }

    def load_training_state(self, state: dict[str, Any]) -> None:
        """Continue training where `training_state` was taken."""
        for name, optimiser in self.optimisers.items():
            optimiser.load_state_dict(copy.deepcopy(state["optimisers"][name]))  # it would share
        self.transition_buffer.load_state_dict(state["transition_buffer"])
        self.dynamics_buffer.load_state_dict(state["dynamics_buffer"])
        self.termination_buffer.load_state_dict(state["termination_buffer"])
        self.generator.set_state(state["generator"].cpu())  # a load may map it to a GPU
        self.fits = state["fits"]
        self.skipped = state["skipped"]
        self.terminations_seen = state["terminations_seen"]
        self.steps_seen = state["steps_seen"]

    # --- inside ----------------------------------------------------------------------------------

    def _unseen(self, window: Window) -> dict[str, float]:
        """Return the errors on a window not seen before, and judge by it what can be foretold."""
        if self.own_dynamics and isinstance(self.dynamics, StepModel):
            action = self.normalise_action(self._box(window.action))
            self.dynamics.update_explained_variance(window.obs, action, window.next_obs)
        return self.held_out_errors(window)

    def _trained(self) -> dict[str, nn.Module]:
        """Return the models of ours that learn, by name."""
        models: dict[str, nn.Module] = {}
        if self.own_reward and self.reward is not None:
            models["reward"] = self.reward
        if self.own_dynamics and self.dynamics is not None:
            models["dynamics"] = self.dynamics
        if self.config.termination:
            models["termination"] = self.termination
        return models

    def _has_data(self) -> bool:
        """Return whether every cache that a model learns from holds anything."""
        caches = {"reward": self.transition_buffer, "dynamics": self.dynamics_buffer}
        return all(len(caches[name]) > 0 for name in self._trained() if name in caches)

    def _rewards(self) -> dict[str, Tensor]:
        size, balance = self.config.batch_size, self.config.reward_balance
        return self.transition_buffer.sample(size, self.generator, balance)

    def _dynamics_capacity(self) -> int:
        """Return the items of one bin: as many as one would do for all of them."""
        capacity = max(1, 2 * self.config.capacity // self.config.dynamics_bins)
        if isinstance(self.dynamics, ActionWorldModel):
            capacity = max(1, capacity // self.config.awm.max_horizon)
            capacity = self.config.trajectories or capacity
        return capacity

    def _box(self, action: Tensor) -> Tensor:
        """Return what the simulator was really given: clamped to the box, or the choice made."""
        if self.discrete:
            return one_hot_argmax(action)
        assert isinstance(self.action_bias, Tensor)
        assert isinstance(self.action_scale, Tensor)
        return torch.clamp(
            action, self.action_bias - self.action_scale, self.action_bias + self.action_scale
        )

    def _update_statistics(self, flat: dict[str, Tensor]) -> None:
        if isinstance(self.reward, RewardModel) and self.own_reward:
            self.reward.update_normaliser(flat["obs"], flat["next_obs"], flat["reward"])
            self.reward.reward_statistics.update(self._rewards()["reward"])
            self.reward.reward_statistics.snapshot()
        if isinstance(self.dynamics, StepModel) and self.own_dynamics:
            self.dynamics.obs_statistics.update(flat["obs"])
            self.dynamics.obs_statistics.snapshot()
            self.dynamics.change_statistics.update(flat["next_obs"] - flat["obs"])
            self.dynamics.change_statistics.snapshot()
        elif isinstance(self.dynamics, ActionWorldModel) and self.own_dynamics:
            drawn = self.dynamics_buffer.sample(2048, self.generator, balance=0.0)
            self.dynamics.set_statistics(drawn["obs"], drawn["next_obs"], drawn["valid"])
        if self.config.termination:
            self.termination.obs_statistics.update(flat["obs"])
            self.termination.obs_statistics.snapshot()

    def _loss(self, name: str) -> Tensor:
        if name == "reward":
            assert isinstance(self.reward, RewardModel)
            return reward_loss(self.reward, self._rewards(), self._mixtures)
        if name == "termination":
            batch = self.termination_buffer.sample(
                self.config.batch_size, self.generator, balance=0.5
            )
            rate = self.terminations_seen / self.steps_seen
            return termination_loss(self.termination, batch, rate, self._mixtures)
        if isinstance(self.dynamics, StepModel):
            batch = self.dynamics_buffer.sample(self.config.batch_size, self.generator)
            return step_loss(self.dynamics, batch, self.continuous.mask, self._mixtures)
        assert isinstance(self.dynamics, ActionWorldModel)
        batch = self.dynamics_buffer.sample(self.config.trajectory_batch_size, self.generator)
        return trajectory_loss(
            self.dynamics,
            batch["obs"],
            batch["action"],
            batch["next_obs"],
            batch["valid"],
            self.continuous.mask,
        )

    def _mixtures(self, predict: Callable[[Tensor], Tensor], action: Tensor) -> Tensor:
        """Return the weighted error on mixtures of choices; 0 where actions are none."""
        if not self.discrete or self.config.mixup_weight == 0:
            return torch.zeros((), device=action.device)
        return self.config.mixup_weight * mixup_loss(predict, action, self.generator)


def _model(choice: bool | nn.Module, build: Any) -> tuple[nn.Module | None, bool]:
    """Return the model and whether it is ours to train.

    Raises:
        UsageError: the choice is neither a bool nor a module.
    """
    if not isinstance(choice, bool | nn.Module):
        raise UsageError(
            f"a model is chosen by {choice!r}; give True to learn one, False for the env's own "
            "gradient, or a torch module"
        )
    if isinstance(choice, nn.Module):
        return choice, False
    return (build(), True) if choice else (None, False)


@contextmanager
def _trainable(module: nn.Module) -> Iterator[None]:
    """Let weights require a gradient only in training; the policy's pass is cheaper without."""
    module.requires_grad_(True)
    try:
        yield
    finally:
        module.requires_grad_(False)

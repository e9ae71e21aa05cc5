"""The learned models beside an env, their caches, their training budget and their errors."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from diffsurrogate.data.replay import StratifiedReplay, finite_items
from diffsurrogate.envs.action_space import ActionSpace
from diffsurrogate.envs.window import Window
from diffsurrogate.errors import UsageError
from diffsurrogate.functional.discrete_actions import mixup_loss
from diffsurrogate.seeding import derive_seed
from diffsurrogate.surrogates.action_world_model import ActionWorldModel, ActionWorldModelConfig
from diffsurrogate.surrogates.config import SurrogateConfig
from diffsurrogate.surrogates.dynamics import DynamicsModel, GivenDynamics, LearnedDynamics
from diffsurrogate.surrogates.heads import RewardModel, TerminationModel
from diffsurrogate.surrogates.step_model import StepModel, StepModelConfig


class Surrogates(nn.Module):
    """Reward model, dynamics model and termination head of one env, and all they learn from."""

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
        """Build what is to be learned.

        Args:
            config: models and budget.
            obs_dim: features of one agent's observation.
            action_space: of all agents.
            reward: True to learn, False for none, or a ready module of (obs, action, next_obs).
            dynamics: likewise; a ready module maps (obs, action) to the next observation, or is
                an `ActionWorldModel`.
            continuous: (agent, obs_dim) bool, where a gradient may pass; found out if None.
            seed: of initial weights and minibatches.
        """
        super().__init__()
        self.config = config
        self.action_space = action_space
        low = action_space.low
        sizes = (len(low), obs_dim, low.shape[-1])
        self.continuous = ContinuousFeatures(len(low), obs_dim, continuous)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "models"))
            self.reward, self.own_reward = _model(
                reward, lambda: RewardModel(config.reward, *sizes)
            )
            model, self.own_dynamics = _model(
                dynamics, lambda: build_dynamics(config.dynamics, *sizes)
            )
            self.dynamics = None if model is None else as_dynamics(model)
            self.termination = TerminationModel(config.reward.net, *sizes)
        self.to(low.device)
        for module in (*self._trained().values(), self.termination):
            module.requires_grad_(False)  # but for a module of the user's: that stays as it is
        self.generator = torch.Generator().manual_seed(derive_seed(seed, "model minibatches"))
        self.optimisers = {
            name: torch.optim.Adam(module.parameters(), lr=config.lr, fused=True)
            for name, module in self._trained().items()
        }
        bins = config.reward_bins
        self.transition_buffer = StratifiedReplay(config.capacity, bins, low.device)
        items = max(1, 2 * config.capacity // config.dynamics_bins)
        if self.own_dynamics:
            items = self._learned_dynamics.items_for(items)
        self.dynamics_buffer = StratifiedReplay(items, config.dynamics_bins, low.device)
        self.termination_buffer = StratifiedReplay(config.capacity, 2, low.device)
        self.fits = 0
        self.skipped = 0
        self.terminations_seen = 0
        self.steps_seen = 0

    # --- models ------------------------------------------------------------------------------

    def dynamics_action(self, action: Tensor) -> Tensor:
        """Return actions, already in their bounds, as the dynamics model takes them."""
        return self.action_space.normalise(action) if self.own_dynamics else action

    def predict_reward(self, obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        """Return modelled rewards `(*batch, agent)` of actions in the box."""
        assert self.reward is not None
        if not self.own_reward:
            ready: Tensor = self.reward(obs, action, next_obs)
            return ready
        out: Tensor = self.reward(obs, self.action_space.normalise(action), next_obs)
        return out

    def predict_continuation(self, obs: Tensor, action: Tensor) -> Tensor:
        """Return the modelled probability that the episode goes on, `(*batch,)`."""
        return torch.sigmoid(-self.termination(obs, self.action_space.normalise(action)))

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
        action = self.action_space.executed(window.action)
        flat = {
            "obs": window.obs.flatten(0, 1),
            "action": self.action_space.normalise(action).flatten(0, 1),
            "next_obs": window.next_obs.flatten(0, 1),
            "reward": window.reward.flatten(0, 1),
            "terminated": window.terminated.flatten().float(),
        }
        flat = finite_items(flat)
        self.continuous.update(flat["next_obs"])
        if self.own_reward:
            self.transition_buffer.add(flat["reward"].sum(-1), flat)
        if self.own_dynamics:
            normalised = self.action_space.normalise(action)
            kept = finite_items(self._learned_dynamics.items(window, normalised))
            self.dynamics_buffer.add(kept.pop("key"), kept)
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
                    norm = nn.utils.clip_grad_norm_(module.parameters(), self.config.max_grad_norm)
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
        action = self.action_space.executed(window.action)
        report = {
            "cached_transitions": float(len(self.transition_buffer)),
            "continuous_features": float(self.continuous.mask.float().mean()),
        }
        if self.reward is not None:
            predicted = self.predict_reward(window.obs, action, window.next_obs)
            report["reward_error"] = fvu(predicted, window.reward)
        if self.dynamics is not None:
            predicted = self.dynamics.predict(window, self.dynamics_action(action))
            report["dynamics_error"] = fvu_of_change(predicted, window, self.continuous.mask)
        if self.config.termination and self.terminations_seen:
            logit = self.termination(window.obs, self.action_space.normalise(action))
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
        """Return the errors on a window not seen before, which also tell what may be trusted."""
        if self.own_dynamics:
            action = self.action_space.executed(window.action)
            self._learned_dynamics.evaluate(window, self.action_space.normalise(action))
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

    def _update_statistics(self, flat: dict[str, Tensor]) -> None:
        if self.own_reward:
            self._learned_reward.update_normaliser(flat["obs"], flat["next_obs"], flat["reward"])
            self._learned_reward.reward_statistics.update(self._rewards()["reward"])
            self._learned_reward.reward_statistics.snapshot()
        if self.own_dynamics:
            self._learned_dynamics.update_normaliser(
                flat["obs"],
                flat["next_obs"],
                lambda count: self.dynamics_buffer.sample(count, self.generator, balance=0.0),
            )
        if self.config.termination:
            self.termination.obs_statistics.update(flat["obs"])
            self.termination.obs_statistics.snapshot()

    def _loss(self, name: str) -> Tensor:
        size = self.config.batch_size
        response: Callable[[Tensor], Tensor] | None
        if name == "reward":
            batch = self._rewards()
            loss, response = self._learned_reward.loss(batch), self._learned_reward.response(batch)
        elif name == "termination":
            batch = self.termination_buffer.sample(size, self.generator, balance=0.5)
            loss = self.termination.loss(batch, self.terminations_seen / self.steps_seen)
            response = self.termination.response(batch)
        else:
            model, mask = self._learned_dynamics, self.continuous.mask
            batch = self.dynamics_buffer.sample(model.batch_size(size), self.generator)
            loss, response = model.loss(batch, mask), model.response(batch, mask)
        if not self.action_space.discrete or self.config.mixup_weight == 0 or response is None:
            return loss
        mixup = mixup_loss(response, batch["action"], self.generator)
        return loss + self.config.mixup_weight * mixup

    @property
    def _learned_reward(self) -> RewardModel:
        return cast(RewardModel, self.reward)

    @property
    def _learned_dynamics(self) -> LearnedDynamics:
        return cast(LearnedDynamics, self.dynamics)


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


def build_dynamics(
    config: StepModelConfig | ActionWorldModelConfig, agents: int, obs_dim: int, act_dim: int
) -> LearnedDynamics:
    """Return the model that a configuration describes."""
    if isinstance(config, ActionWorldModelConfig):
        return ActionWorldModel(config, agents, obs_dim, act_dim)
    return StepModel(config, agents, obs_dim, act_dim)


def as_dynamics(module: nn.Module) -> DynamicsModel:
    """Return a module as a model of the dynamics: itself, or one that maps (obs, action)."""
    return module if isinstance(module, DynamicsModel) else GivenDynamics(module)


class ContinuousFeatures(nn.Module):
    """Finds the observation entries that a gradient may pass through.

    Flags and one-hots are no function a model could differentiate; chained over a window, their
    spurious slopes explode. An entry counts as discrete while every value seen of it is a whole
    number, and as continuous for ever once one was not.
    """

    seen: Tensor
    fixed: Tensor

    def __init__(self, agents: int, obs_dim: int, continuous: Tensor | None = None) -> None:
        """Start with nothing known.

        Args:
            agents: number of agents.
            obs_dim: features of one agent.
            continuous: (agent, obs_dim) or (obs_dim,) bool, to say it instead of finding out.
        """
        super().__init__()
        self.register_buffer("seen", torch.zeros(agents, obs_dim, dtype=torch.bool))
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
        """(agent, obs_dim) bool: True where an entry is continuous."""
        return self.seen

    @torch.no_grad()
    def update(self, obs: Tensor) -> None:
        """Look at observations `(*any, agent, obs_dim)`."""
        if bool(self.fixed) or bool(self.seen.all()):
            return
        rows = obs.reshape(-1, *self.seen.shape)
        self.seen |= (rows != rows.round()).any(0)


def fvu(predicted: Tensor, target: Tensor) -> float:
    """Return the mean squared error over the variance of the target; 0 where both vanish."""
    variance = float(target.var(correction=0))
    error = float((predicted - target).square().mean())
    return error / variance if variance > 1e-12 else error


def fvu_by_feature(predicted: Tensor, window: Window, continuous: Tensor) -> Tensor:
    """Return the unexplained share of the changes of each entry (agent, obs_dim).

    NaN where an entry does not move or does not count.

    Args:
        predicted: (time, env, agent, obs_dim), of `window.next_obs`.
        window: what happened.
        continuous: (agent, obs_dim) bool, the entries that count.
    """
    error = (predicted - window.next_obs).square().mean((0, 1))
    change = (window.next_obs - window.obs).square().mean((0, 1))
    return torch.where(continuous & (change > 1e-12), error / change, torch.nan)


def fvu_of_change(predicted: Tensor, window: Window, continuous: Tensor) -> float:
    """Return the mean of `fvu_by_feature` over those that move; 0 if none does."""
    shares = fvu_by_feature(predicted, window, continuous)
    shares = shares[~shares.isnan()]
    return float(shares.mean()) if len(shares) else 0.0


def some_envs(window: Window, envs: int = 32) -> Window:
    """Return a few envs of a window: enough to measure an error on."""
    if window.reward.shape[1] <= envs:
        return window
    return window.each(lambda values: values[:, :envs])

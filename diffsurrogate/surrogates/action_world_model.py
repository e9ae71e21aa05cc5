r"""The action world model (AWM): predicts states from a start state and a sequence of actions.

$F_\theta(s_0, a_1, \dots, a_h) \to \hat s_1, \dots, \hat s_h$ is not recursive: $\hat s_i$ depends
on $s_0$ and $a_1 \dots a_i$ and on no other prediction, so gradients from a state to an action pass
a few layers instead of up to $h$ steps (Ma et al., ICML 2024; with several agents: SHAC++,
Bertolotti et al., ECAI 2025). The attention pattern is in `surrogates.structured_attention`.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import pad

from diffsurrogate.config import require_choices, require_range
from diffsurrogate.data.segments import Segments, padded
from diffsurrogate.distributed import count_per_rank, mean_and_std, sum_over_ranks
from diffsurrogate.envs.window import Window
from diffsurrogate.errors import UsageError
from diffsurrogate.nets.normaliser import scale_or_size
from diffsurrogate.surrogates.dynamics import Batch, LearnedDynamics
from diffsurrogate.surrogates.structured_attention import StructuredLayer

CHANGE_FLOOR = 0.03
"""Smallest scale of a change, in standard deviations of the feature."""


@dataclass(frozen=True, kw_only=True)
class ActionWorldModelConfig:
    """Size, target and minibatches of an action world model."""

    width: int = 64
    """Features of a token."""
    heads: int = 1
    """Attention heads; must divide `width`."""
    layers: int = 3
    """Transformer layers."""
    feedforward: int = 128
    """Hidden width of each layer's MLP: 128 in the paper, 512 in its released code."""
    max_horizon: int = 32
    """Longest sequence of actions, in steps."""
    predict: Literal["change", "absolute"] = "change"
    """change: the difference from s_0; a new model predicts no change. absolute: the state itself
    (the paper)."""
    normalise: bool = True
    """Scale inputs and outputs by the statistics of the data; the paper does not."""
    chunk: int = 48
    """Trajectories processed at a time on a CPU, so that activations fit its cache: 1.05 to 1.2
    times as fast as all at once (512 trajectories, 1 or 3 agents, 1 thread)."""
    batch_size: int = 128
    """Trajectories per minibatch."""
    trajectories: int | None = None
    """Trajectories per bin of the replay buffer; None for as many as hold the transitions of
    `FitConfig.capacity`."""

    def __post_init__(self) -> None:
        """Validate the options."""
        require_choices(self)
        for name in ("width", "heads", "layers", "feedforward", "max_horizon", "chunk"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.width % self.heads:
            raise UsageError(f"heads = {self.heads} must divide width = {self.width}")
        if self.predict not in ("change", "absolute"):
            raise UsageError(f'predict must be "change" or "absolute", got {self.predict!r}')
        require_range(self, "batch_size", low=1.0)
        if self.trajectories is not None:
            require_range(self, "trajectories", low=1.0)


@dataclass(frozen=True, kw_only=True)
class KVCache:
    """Keys and values of past tokens for `ActionWorldModel.step`; never changed in place.

    Slots are tokens, oldest first. An env attends to its last `step + 1` slots only: its state
    token and the actions since.
    """

    start: Float[Tensor, "env agent obs_dim"]
    """The initial state of each env's trajectory."""
    step: Int[Tensor, " env"]
    """Number of actions since then."""
    longest: int
    """The largest of `step`, as an int."""
    keys: tuple[Float[Tensor, "env agent head slot dim"], ...]
    """One tensor per layer."""
    values: tuple[Float[Tensor, "env agent head slot dim"], ...]
    """One tensor per layer."""


class ActionWorldModel(LearnedDynamics):
    r"""$\hat s_i = s_0 + \sigma_i \odot f_\theta(s_0, a_1, \dots, a_i)$ for all agents at once.

    $\sigma_i$ is the scale of changes over $i$ steps; the last layer starts at zero, so a new model
    predicts no change. With `predict="absolute"`, $\hat s_i = \mu + \sigma f_\theta$ as in the
    paper ($\mu = 0, \sigma = 1$ unless normalised).

    The model is permutation-equivariant over agents, has no agent ids and takes any number of
    agents.

    `forward` for a whole window, and `begin`, `step`, `restart` step by step, give the same values
    and gradients. Freeze the weights (`requires_grad_(False)`) if only gradients of the actions are
    needed: 1.1 to 1.3 times as fast.
    """

    from_start = True
    obs_mean: Tensor
    obs_std: Tensor
    change_scale: Tensor

    def __init__(
        self, config: ActionWorldModelConfig, agents: int, obs_dim: int, act_dim: int
    ) -> None:
        """Build; unless `predict="absolute"`, the last layer is zero.

        Args:
            config: size and target of the model.
            agents: unused; all models have the same signature.
            obs_dim: features of one agent's observation.
            act_dim: features of one agent's action.
        """
        super().__init__()
        self.config = cfg = config
        self.max_horizon = cfg.max_horizon
        self.state_in = nn.Linear(obs_dim, cfg.width)
        self.action_in = nn.Linear(act_dim, cfg.width)
        self.step_embedding = nn.Embedding(cfg.max_horizon + 1, cfg.width)
        self.layers = nn.ModuleList(
            StructuredLayer(cfg.width, cfg.heads, cfg.feedforward) for _ in range(cfg.layers)
        )
        self.head = nn.Linear(cfg.width, obs_dim)
        if cfg.predict == "change":
            nn.init.zeros_(self.head.weight)
            nn.init.zeros_(self.head.bias)
        self.register_buffer("obs_mean", torch.zeros(obs_dim))
        self.register_buffer("obs_std", torch.ones(obs_dim))
        self.register_buffer("change_scale", torch.ones(cfg.max_horizon, obs_dim))

    # --- a whole window ----------------------------------------------------------------------

    def forward(
        self,
        obs0: Float[Tensor, "batch agent obs_dim"],
        actions: Float[Tensor, "batch time agent act_dim"],
    ) -> Float[Tensor, "batch time agent obs_dim"]:
        """Predict the state after each action.

        Raises:
            UsageError: there are more actions than `max_horizon`.
        """
        self._check_horizon(actions.shape[1])
        size = self.config.chunk if obs0.device.type == "cpu" else len(obs0)
        chunks = zip(obs0.split(size), actions.split(size), strict=True)
        return torch.cat([self._predict(*chunk) for chunk in chunks])

    # --- one step at a time ------------------------------------------------------------------

    def begin(self, obs: Float[Tensor, "env agent obs_dim"]) -> KVCache:
        """Start every env's trajectory at `obs`."""
        token = self._embed_obs(obs) + self.step_embedding.weight[0]
        empty = token.new_empty(
            (len(obs), obs.shape[1], self.config.heads, 0, self.config.width // self.config.heads)
        )
        memory = KVCache(
            start=obs,
            step=torch.zeros(len(obs), dtype=torch.long, device=obs.device),
            longest=0,
            keys=(empty,) * len(self.layers),
            values=(empty,) * len(self.layers),
        )
        return self._enter(token, memory)[1]

    def step(
        self, carry: KVCache, obs: Tensor, action: Float[Tensor, "env agent act_dim"]
    ) -> tuple[Float[Tensor, "env agent obs_dim"], KVCache]:
        """Predict the state after one more action, and return the carry of the next call.

        `obs` is ignored.

        Raises:
            UsageError: an env's trajectory would be longer than `max_horizon`.
        """
        self._check_horizon(carry.longest + 1)
        memory = replace(carry, step=carry.step + 1, longest=carry.longest + 1)
        token = self.action_in(action) + self.step_embedding(memory.step)[:, None]
        token, memory = self._enter(token, memory)
        scale = self.target_scale(memory.longest)[memory.step - 1]
        return self._decode(memory.start, token, scale[:, None]), memory

    def restart(
        self,
        carry: KVCache,
        mask: Bool[Tensor, " env"],
        obs: Float[Tensor, "env agent obs_dim"],
    ) -> KVCache:
        """Start a new trajectory at `obs` in the envs where `mask` is set; the others go on.

        The new state token replaces a restarted env's newest slot, so that restarts add no slots.
        """
        fresh = self.begin(obs[mask])
        step = carry.step.masked_fill(mask, 0)
        longest = int(step.max())
        renewed = []
        for old, new in zip(carry.keys + carry.values, fresh.keys + fresh.values, strict=True):
            newest = old[..., -1:, :].index_put((mask,), new)
            renewed.append(torch.cat([old[..., -longest - 1 : -1, :], newest], dim=-2))
        return KVCache(
            start=torch.where(mask[:, None, None], obs, carry.start),
            step=step,
            longest=longest,
            keys=tuple(renewed[: len(self.layers)]),
            values=tuple(renewed[len(self.layers) :]),
        )

    # --- learning ----------------------------------------------------------------------------

    def predict(self, window: Window, action: Tensor) -> Tensor:
        """Predict all observations of a window from the first of each trajectory in it."""
        segments = Segments.of(window)
        return segments.scatter(self(segments.first(window.obs), segments.gather(action)))

    def items(self, window: Window, action: Tensor) -> Batch:
        """Return whole trajectories, keyed by their return."""
        segments, longest = Segments.of(window), self.config.max_horizon
        reward = segments.gather(window.reward) * segments.valid.unsqueeze(-1)
        return {
            "obs": segments.first(window.obs),
            "action": padded(segments.gather(action), longest),
            "next_obs": padded(segments.gather(window.next_obs), longest),
            "valid": padded(segments.valid, longest),
            "key": reward.sum((1, 2)),
        }

    def items_for(self, transitions: int) -> int:
        """Return the configured number of trajectories, or how many hold that many transitions."""
        return self.config.trajectories or max(1, transitions // self.config.max_horizon)

    def batch_size(self, transitions: int) -> int:
        """Return the number of trajectories per minibatch."""
        return self.config.batch_size

    def update_normaliser(
        self,
        obs: Tensor,
        next_obs: Tensor,
        draw: Callable[[int], Batch],
        alive: Tensor | None = None,
    ) -> None:
        """Set the statistics from trajectories of the replay buffer."""
        drawn = draw(2048)
        self.set_statistics(drawn["obs"], drawn["next_obs"], drawn["valid"])

    def loss(self, batch: Batch, continuous: Tensor) -> Tensor:
        """Return `trajectory_loss` of a minibatch."""
        sizes = (batch["obs"], batch["action"], batch["next_obs"], batch["valid"])
        return trajectory_loss(self, *sizes, continuous)

    # --- statistics --------------------------------------------------------------------------

    @torch.no_grad()
    def set_statistics(
        self,
        obs0: Float[Tensor, "batch agent obs_dim"],
        targets: Float[Tensor, "batch time agent obs_dim"],
        valid: Bool[Tensor, "batch time"],
    ) -> None:
        r"""Set $\mu, \sigma$ of observations and $\sigma_i = \|s_i - s_0\|_{rms}$ from data.

        Changes are measured about zero, not about their mean: a new model predicts zero, and a
        steady drift must not become a huge target divided by a tiny scale. Statistics are shared by
        agents. Steps no trajectory reaches get the scale of the last step reached. Does nothing
        with `normalise=False`.

        Raises:
            UsageError: no step is valid, or there are more steps than `max_horizon`.
        """
        cfg, (_, horizon, agents, _) = self.config, targets.shape
        if not cfg.normalise:
            return
        self._check_horizon(horizon)
        count = sum_over_ranks(valid.sum(dim=0))
        if not bool(count.any()):
            raise UsageError("no step is valid; give at least one trajectory of one step")
        seen = torch.cat([obs0, targets[valid]]).flatten(0, 1)
        mean, std = mean_and_std(seen, 0, correction=0)
        self.obs_mean.copy_(mean)
        self.obs_std.copy_(scale_or_size(std, self.obs_mean))
        change = (targets - obs0[:, None]).masked_fill(~valid[..., None, None], 0)
        square = sum_over_ranks(change.square().sum(dim=(0, 2)))
        square = square / (count * agents).clamp(min=1)[:, None]
        steps = torch.arange(cfg.max_horizon, device=count.device)
        reached = pad(count, (0, len(steps) - horizon)) > 0
        latest = steps.where(reached, 0).cummax(dim=0).values
        self.change_scale.copy_(square.sqrt().maximum(CHANGE_FLOOR * self.obs_std)[latest])

    def target_scale(self, horizon: int) -> Float[Tensor, "time obs_dim"]:
        """Return the scale of the network's output, for steps 1 to `horizon`."""
        if self.config.predict == "change":
            return self.change_scale[:horizon]
        return self.obs_std.expand(horizon, -1)

    # --- parts -------------------------------------------------------------------------------

    def _predict(self, obs0: Tensor, actions: Tensor) -> Tensor:
        horizon = actions.shape[1]
        token = torch.cat([self._embed_obs(obs0)[:, None], self.action_in(actions)], dim=1)
        token = token + self.step_embedding.weight[: horizon + 1, None]
        for layer in self.layers:
            token = layer(token)
        return self._decode(obs0[:, None], token[:, 1:], self.target_scale(horizon)[:, None])

    def _embed_obs(self, obs: Tensor) -> Tensor:
        return self.state_in((obs - self.obs_mean) / self.obs_std)

    def _enter(self, token: Tensor, memory: KVCache) -> tuple[Tensor, KVCache]:
        """Run tokens (env, agent, width) through the layers and append them to the cache."""
        slots = torch.arange(memory.keys[0].shape[-2], device=token.device)
        valid = slots >= len(slots) - memory.step[:, None]
        keys, values = [], []
        past = zip(self.layers, memory.keys, memory.values, strict=True)
        for layer, past_key, past_value in past:
            token, key, value = cast(StructuredLayer, layer).step(
                token, past_key, past_value, valid
            )
            keys.append(torch.cat([past_key, key[..., None, :]], dim=-2))
            values.append(torch.cat([past_value, value[..., None, :]], dim=-2))
        return token, replace(memory, keys=tuple(keys), values=tuple(values))

    def _decode(self, start: Tensor, token: Tensor, scale: Tensor) -> Tensor:
        origin = start if self.config.predict == "change" else self.obs_mean
        return origin + scale * self.head(token)

    def _check_horizon(self, horizon: int) -> None:
        if horizon > self.config.max_horizon:
            raise UsageError(
                f"the action world model was asked for {horizon} steps from one start, but has "
                f"max_horizon={self.config.max_horizon}; call detach() or restart() to begin a "
                f"new window sooner, or make the model with max_horizon={horizon}"
            )


def trajectory_loss(
    model: ActionWorldModel,
    obs0: Float[Tensor, "batch agent obs_dim"],
    actions: Float[Tensor, "batch time agent act_dim"],
    targets: Float[Tensor, "batch time agent obs_dim"],
    valid: Bool[Tensor, "batch time"],
    entries: Bool[Tensor, " obs_dim"] | Bool[Tensor, "agent obs_dim"],
) -> Float[Tensor, ""]:
    r"""Mean of $((\hat s_i - s_i) / \sigma_i)^2$ over valid steps: the paper's L^F, normalised.

    Predicting no change has a loss of 1 on the data of the statistics (with the default
    `predict="change"` and no scale at its floor).

    Args:
        model: the action world model.
        obs0: initial states of trajectories.
        actions: a_1 to a_h.
        targets: s_1 to s_h.
        valid: False for steps after the end of an episode, which are ignored.
        entries: True for continuous features; flags and padding are ignored.
    """
    error = (model(obs0, actions) - targets) / model.target_scale(actions.shape[1])[:, None]
    used = valid[..., None, None] & entries
    return error.masked_fill(~used, 0).square().sum() / count_per_rank(used.expand_as(error))

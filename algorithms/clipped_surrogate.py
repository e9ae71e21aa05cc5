"""PPO's clipped surrogate objective: minibatches, epochs and reports."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from diffsurrogate.actor_critic.actor import Actor, ActorConfig
from diffsurrogate.actor_critic.exploration import NoiseState
from diffsurrogate.actor_critic.hidden_states import actor_past
from diffsurrogate.config import require_choices, require_range
from diffsurrogate.distributed import as_many, mean_and_std, rows_of_ranks, share, world_size
from diffsurrogate.envs.window import Window
from diffsurrogate.errors import UsageError
from diffsurrogate.functional.losses import clipped_ratio_loss
from diffsurrogate.nets.config import NetConfig
from diffsurrogate.nets.normaliser import HIDDEN
from diffsurrogate.nets.recurrent import Recurrence
from diffsurrogate.optimisation import ClippedAdam, Gradient, mean_report


@dataclass(frozen=True, kw_only=True)
class ClipConfig:
    """Policy training with PPO's clipped surrogate (arXiv:1707.06347)."""

    epochs: int = 4
    """Passes over each window, usually 4 to 15."""
    batch_size: int = 2048
    """Joint states (of all agents) per minibatch. Recurrent policies use whole windows of as many
    envs as fit, at least one."""
    clip_range: float = 0.2
    """ε, to which the probability ratio is clipped around 1, usually 0.1 to 0.3."""
    lr: float = 1e-3
    """Adam's learning rate of the policy."""
    max_grad_norm: float = 0.5
    """Gradients are clipped to this norm."""
    target_kl: float | None = None
    """Stop training on a window once a minibatch's mean KL divergence exceeds this, usually 0.01 to
    0.05; None for never."""
    entropy_weight: float = 0.0
    """Weight of the entropy bonus, usually 0 to 0.01."""
    ratio: Literal["per_agent", "joint"] = "per_agent"
    """per_agent: one probability ratio per agent's action, clipped separately. joint: one ratio of
    the joint action of all agents."""
    advantage: Literal["individual", "shared"] = "individual"
    """individual: each agent's own advantage. shared: the mean over agents."""
    normalise: bool = True
    """Normalise the advantages of a minibatch to mean 0 and standard deviation 1."""

    def __post_init__(self) -> None:
        require_choices(self)
        require_range(self, "epochs", low=0.0)
        require_range(self, "batch_size", low=1.0)
        require_range(self, "clip_range", "max_grad_norm", low=1e-12)
        require_range(self, "lr", "entropy_weight", low=0.0)
        if self.target_kl is not None:
            require_range(self, "target_kl", low=1e-12)


def refuse_memory(method: str, *nets: NetConfig) -> None:
    """Refuse recurrent networks, which methods of agents in turn do not support."""
    widest = max(net.gru_size for net in nets)
    if widest > 0:
        raise UsageError(
            f"net.gru_size is {widest}, but {method} learns policies and critics without a GRU; "
            "leave it at 0, or train by SHAC, PPO, IPPO or MAPPO"
        )


def refuse_squash(actor: ActorConfig) -> None:
    """Refuse a squashed policy, whose density is infinite at the action bounds."""
    if actor.squash:
        raise UsageError(
            "PPO's ratio needs the density of the sampled action, which squashing does not keep; "
            "leave actor.squash False"
        )


@dataclass(frozen=True, kw_only=True)
class PolicyBatch:
    """Actions of a policy in a window and their advantages, without a graph.

    Minibatches merge time and env into one axis, unless the policy is recurrent.
    """

    obs: Tensor
    """(time, env, agent, obs_dim)"""
    action: Tensor
    """(time, env, agent, act_dim) as sampled, not clamped."""
    log_prob: Tensor
    """(time, env, agent) under the policy that acted."""
    advantage: Tensor
    """(time, env, agent)"""
    alive_mask: Tensor | None = None
    """(time, env, agent) bool: which agents were alive; None if all always were."""
    noise_state: NoiseState | None = None
    """Conditional distribution of correlated noise; None for white noise."""
    past: Recurrence | None = None
    """Initial hidden states and episode starts of a recurrent policy; None for others."""

    def minibatches(
        self, config: ClipConfig, generator: torch.Generator
    ) -> Iterator["PolicyBatch"]:
        """Yield random parts: single steps, or if recurrent the whole window of some envs.

        Parts in which no agent is alive are left out, unless another rank's part may have some.
        """
        names = ("obs", "action", "log_prob", "advantage")
        values = {name: getattr(self, name) for name in names}
        if self.alive_mask is not None:
            values["alive_mask"] = self.alive_mask
        horizon, num_envs = self.log_prob.shape[:2]

        def nobody(part: dict[str, Tensor]) -> bool:
            alive = part.get("alive_mask")
            return alive is not None and world_size() == 1 and not bool(alive.any())

        state = self.noise_state
        if self.past is not None:
            for envs in shuffled(num_envs, config, generator, steps=horizon):
                part = {name: value[:, envs] for name, value in values.items()}
                if not nobody(part):
                    chosen = None if state is None else state.of_envs(envs)
                    yield PolicyBatch(**part, noise_state=chosen, past=self.past.of_envs(envs))
            return
        flat = {name: value.flatten(0, 1) for name, value in values.items()}
        state = None if state is None else state.flat()
        for steps in shuffled(horizon * num_envs, config, generator):
            part = {name: value[steps] for name, value in flat.items()}
            if not nobody(part):
                yield PolicyBatch(**part, noise_state=None if state is None else state.at(steps))


@torch.no_grad()
def policy_batch(
    window: Window,
    actor: Actor,
    advantage: Tensor,
    noise_state: NoiseState | None = None,
) -> PolicyBatch:
    """Record a window with its log-probabilities, before the policy is updated.

    Args:
        window: observations and actions.
        actor: the policy that acted.
        advantage: (time, env, agent).
        noise_state: conditional distribution of correlated noise; None for white noise.
    """
    obs, action, past = window.obs.detach(), window.action.detach(), actor_past(window)
    log_prob = actor.log_prob(obs, action, noise_state, past)
    return PolicyBatch(
        obs=obs,
        action=action,
        log_prob=log_prob,
        advantage=advantage,
        alive_mask=window.alive_mask,
        noise_state=noise_state,
        past=past,
    )


def clipped_epochs(
    actor: Actor,
    past: PolicyBatch,
    *,
    config: ClipConfig,
    generator: torch.Generator,
    optimiser: ClippedAdam,
    extra_grad: Gradient | None = None,
) -> dict[str, float]:
    """Train a policy on one window with the clipped surrogate, for some epochs.

    Args:
        actor: the policy, which may have changed a little since it acted.
        past: its actions and advantages.
        config: epochs, minibatches and clipping.
        generator: on the CPU, for minibatches.
        optimiser: of the policy.
        extra_grad: added to the gradient of every step.

    Returns:
        means over all steps: loss, gradient norm, approximate KL divergence, clipped fraction.
    """
    reports = []
    for part in past.minibatches(config, generator):
        old, gain = part.log_prob, _gain(part, config, actor.config.net)
        taken, entropy = (part.obs, part.action, part.noise_state, part.past), None
        if config.entropy_weight > 0:
            new, entropy = actor.evaluate_actions(*taken)
        else:
            new = actor.log_prob(*taken)
        alive = part.alive_mask
        if config.ratio == "joint":
            if alive is not None:  # dead agents' actions had no effect
                old, new = old.where(alive, 0.0), new.where(alive, 0.0)
                entropy = None if entropy is None else entropy.where(alive, 0.0)
            old, new, gain = old.sum(-1), new.sum(-1), gain.mean(-1)
        elif alive is not None:
            old, new, gain = old[alive], new[alive], gain[alive]
            entropy = None if entropy is None else entropy[alive]
        if config.normalise and (gain.numel() > 1 or world_size() > 1):
            mean, std = mean_and_std(gain)
            gain = (gain - mean) / (std + 1e-8)
        loss = clipped_ratio_loss(new, old, gain, clip_range=config.clip_range)
        if entropy is not None:
            if config.ratio == "joint":
                entropy = entropy.sum(-1)  # of the joint action
            loss = loss - config.entropy_weight * entropy.mean()
        kl = approximate_kl(new, old)
        norm = optimiser.step(loss, extra_grad, rows=new.numel(), along=kl)
        reports.append(step_report(loss, norm, new, old, config, kl))
        if config.target_kl is not None and bool(kl > config.target_kl):
            break
    return mean_report(reports)


def learns_own_return(config: ClipConfig, net: NetConfig) -> bool:
    """Return whether each agent's weights follow its own advantage."""
    return config.advantage == "individual" and config.ratio == "per_agent" and net.apart


def _gain(part: PolicyBatch, config: ClipConfig, net: NetConfig) -> Tensor:
    """Return what each agent gains by its action, (*any, agent)."""
    if config.advantage == "shared":
        return part.advantage.mean(-1, keepdim=True).expand_as(part.advantage)
    if config.normalise and learns_own_return(config, net):
        return in_own_units(part.advantage, part.alive_mask)
    return part.advantage


def in_own_units(gain: Tensor, alive: Tensor | None) -> Tensor:
    """Return advantages (*any, agent) in which no agent's are drowned by the others'.

    Those of an agent whose deviation is less than a tenth of that of all are brought to the latter,
    around their own mean; others stay as they are.

    Args:
        gain: advantages.
        alive: (*any, agent) bool, which count; None for all.
    """
    rows = gain if alive is None else gain.masked_fill(~alive, torch.nan)
    rows = rows_of_ranks(rows.flatten(0, -2))
    mean = rows.nanmean(0)
    own = (rows - mean).square().nanmean(0).sqrt()
    of_all = (rows - rows.nanmean()).square().nanmean().sqrt()
    small = (own > 0) & (own < HIDDEN * of_all)
    if not bool(small.any()):
        return gain
    return torch.where(small, (gain - mean) / own.clamp(min=1e-12) * of_all, gain)


def approximate_kl(new: Tensor, old: Tensor) -> Tensor:
    r"""Return the mean of $\rho - 1 - \log \rho$ over actions, an estimate of the KL divergence."""
    change = (new - old).detach()
    return (change.exp() - 1 - change).mean()


def step_report(
    loss: Tensor,
    norm: Tensor,
    new: Tensor,
    old: Tensor,
    config: ClipConfig,
    kl: Tensor | None = None,
) -> dict[str, Tensor]:
    """Return the metrics of one step, scalars.

    Args:
        loss: that was minimised.
        norm: of its gradient.
        new: log-densities of actions before the step.
        old: log-densities under the policy that acted.
        config: with the clip range.
        kl: `approximate_kl`, of all ranks; None for that of these.
    """
    ratio = (new - old).detach().exp()
    return {
        "clipped_loss": loss.detach(),
        "clipped_gradient_norm": norm,
        "kl": approximate_kl(new, old) if kl is None else kl,
        "clipped_share": ((ratio - 1).abs() > config.clip_range).float().mean(),
    }


def shuffled(
    rows: int, config: ClipConfig, generator: torch.Generator, *, steps: int = 1
) -> Iterator[Tensor]:
    """Yield the row indices of each minibatch, every row once per epoch.

    Args:
        rows: number of rows.
        config: epochs and batch size, of which a rank has its share.
        generator: on the CPU.
        steps: states per row; a minibatch has at least one row.
    """
    for _ in range(config.epochs):
        order = torch.randperm(rows, generator=generator)
        yield from as_many(order.split(max(share(config.batch_size) // steps, 1)))

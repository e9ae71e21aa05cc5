"""SHAC's value learning: TD(λ) targets, expectile loss and replay."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.profiler import record_function

from diffsurrogate.actor_critic.critic import Critic
from diffsurrogate.actor_critic.hidden_states import critic_past
from diffsurrogate.algorithms.max_entropy import EntropyBonus
from diffsurrogate.config import require_range
from diffsurrogate.data.replay import StratifiedReplay
from diffsurrogate.distributed import fewest, share, sum_over_ranks, world_size
from diffsurrogate.envs.window import Window
from diffsurrogate.functional.losses import expectile_loss, td_lambda
from diffsurrogate.nets.normaliser import HIDDEN
from diffsurrogate.optimisation import ClippedAdam, mean_report
from diffsurrogate.training.metrics import Metrics

DECAY = 0.97
"""Decay per window of the sums of positive and negative rewards."""
ENOUGH = 0.01
"""Ratio of the rarer to the more common sign at which the balance is 1."""


@dataclass(frozen=True, kw_only=True)
class ValueLearningConfig:
    """Hyperparameters of the value function's training."""

    lam: float = 0.95
    """λ of the TD(λ) targets, in [0, 1]."""
    lr: float = 3e-3
    """Adam's learning rate."""
    max_grad_norm: float = 1.0
    """Gradients are clipped to this norm."""
    minibatches: int = 8
    """Minibatches per iteration."""
    batch_size: int = 512
    """States per minibatch."""
    capacity: int = 20_000
    """States per bin of the replay buffer; 0 trains on the current window only."""
    bins: int = 9
    """Bins of the replay buffer, by value target."""
    balance: float = 0.5
    """Share of a minibatch drawn evenly from the bins, in [0, 1]; the rest is uniform."""
    expectile: float = 0.5
    """Expectile of the targets to learn (arXiv:2110.06169, eq. 5), in [.01, .99]: .5 is the mean,
    more is optimistic."""
    expectile_one_signed: float | None = None
    """Expectile to use as far as rewards have one sign only (`RewardSignBalance`), in [.01, .99];
    None for `expectile` always."""

    def __post_init__(self) -> None:
        require_range(self, "lam", "balance", low=0.0, high=1.0)
        require_range(self, "lr", "capacity", low=0.0)
        require_range(self, "max_grad_norm", low=1e-12)
        require_range(self, "minibatches", "batch_size", "bins", low=1.0)
        require_range(self, "expectile", low=0.01, high=0.99)
        if self.expectile_one_signed is not None:
            require_range(self, "expectile_one_signed", low=0.01, high=0.99)

    def expectile_at(self, balance: float) -> float:
        """Interpolate between `expectile_one_signed` (0) and `expectile` (1)."""
        one_signed = self.expectile_one_signed
        low = self.expectile if one_signed is None else one_signed
        return low + (self.expectile - low) * balance


def discount_for(max_steps: int | None) -> float:
    """Return the discount that suits a time limit: it looks half of an episode ahead.

    That is 1 - 2 / `max_steps`, in [.95, .995], and .995 without a limit. TD-MPC2's heuristic
    (arXiv:2310.16828) looks a fifth ahead. Longer views make values large beside what an action
    changes: with .995, Reacher's 50 steps are learned more slowly than by PPO.
    """
    return 0.995 if max_steps is None else min(max(1 - 2 / max_steps, 0.95), 0.995)


class ValueLearning:
    """Trains a critic, window by window."""

    def __init__(
        self,
        config: ValueLearningConfig,
        critic: Critic,
        *,
        num_envs: int,
        num_agents: int,
        gamma: float,
        scale_rewards: bool,
        apart: bool,
        betas: tuple[float, float],
        generator: torch.Generator,
        entropy: EntropyBonus | None = None,
    ) -> None:
        """Build the optimiser and the replay buffer.

        Args:
            config: hyperparameters.
            critic: the value function, on the device of the windows.
            num_envs: number of envs.
            num_agents: agents per env.
            gamma: discount.
            scale_rewards: divide rewards by the running standard deviation of returns.
            apart: whether each agent's weights follow its own return.
            betas: Adam's.
            generator: on the CPU, for minibatches.
            entropy: bonus for the policy's entropy; None for none.
        """
        self.config = config
        self.critic = critic
        self.entropy = entropy
        self.gamma = gamma
        self.scales_rewards = scale_rewards
        self.generator = generator
        device = next(critic.parameters()).device
        self.scale = ReturnScale(num_envs, num_agents, gamma, apart=apart).to(device)
        self.sign_balance = RewardSignBalance().to(device)
        self.optimiser = ClippedAdam(
            critic, config.lr, max_grad_norm=config.max_grad_norm, betas=betas
        )
        self.replay: StratifiedReplay | None = None
        if config.capacity > 0:
            self.replay = StratifiedReplay(share(config.capacity), config.bins, device)

    @torch.no_grad()
    def targets(self, window: Window) -> Tensor:
        """Update the reward scale; return TD(λ) targets (time, env, agent)."""
        if self.scales_rewards:
            self.scale.update(window.reward, window.ended)
        return td_lambda(
            self.reward(window),
            self.critic.low_target_after(window.obs, window.next_obs, critic_past(window)),
            window.terminated,
            window.truncated,
            gamma=self.gamma,
            lam=self.config.lam,
        )

    def reward(self, window: Window) -> Tensor:
        """Return scaled rewards (time, env, agent), plus the entropy bonus."""
        reward = window.reward / self.scale.scale
        return reward if self.entropy is None else reward + self.entropy.of(window)

    @record_function("critic update")
    def fit(self, window: Window, target: Tensor) -> Metrics:
        """Train the critic on the targets of a window and on replayed ones."""
        self.sign_balance.update(window.reward)
        losses, expectile = [], self.config.expectile_at(self.sign_balance.share)
        for value, wanted in self._minibatches(window, target):
            loss = expectile_loss(value, wanted.expand_as(value), expectile=expectile)
            self.optimiser.step(loss * len(value), rows=value[0, ..., 0].numel())
            losses.append({"critic_loss": loss.detach()})
        if not losses:
            return {}
        self.critic.update_target()
        mean = target[target.isfinite()].mean()
        report = mean_report(losses) | {"value_target": float(mean)}
        if self.config.expectile_one_signed is not None:
            report["expectile"] = expectile
        return report

    def _minibatches(self, window: Window, target: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield values (ensemble, *batch, agent) and targets of steps, or of whole windows."""
        past, size = critic_past(window), share(self.config.batch_size)
        if past is not None:
            finite = target.isfinite().all(-1).all(0).nonzero().squeeze(-1)
            for chosen in self._shuffled(len(finite), max(size // len(target), 1)):
                envs = finite[chosen.to(finite.device)]
                yield self.critic.each(window.obs[:, envs], past.of_envs(envs)), target[:, envs]
            return
        obs, target = window.obs.flatten(0, 1), target.flatten(0, 1)
        finite = target.isfinite().all(-1)
        if not bool(finite.all()):
            obs, target = obs[finite], target[finite]
        if self.replay is None:
            for chosen in self._shuffled(len(obs), size):
                yield self.critic.each(obs[chosen]), target[chosen]
            return
        if fewest(len(target)) == 0:
            return
        unit = self.scale.scale  # which later windows change
        kept = target * unit
        self.replay.add(kept.mean(-1), {"obs": obs, "target": kept})
        for _ in range(self.config.minibatches):
            batch = self.replay.sample(size, self.generator, self.config.balance)
            yield self.critic.each(batch["obs"]), batch["target"] / unit

    def _shuffled(self, rows: int, size: int) -> Iterator[Tensor]:
        """Yield the indices of each minibatch; none if a rank has no rows."""
        order = torch.empty(0, dtype=torch.long)
        for _ in range(self.config.minibatches if fewest(rows) > 0 else 0):
            if len(order) < min(size, rows):
                order = torch.randperm(rows, generator=self.generator)
            chosen, order = order[:size], order[size:]
            yield chosen


class RewardSignBalance(nn.Module):
    r"""Balance of positive and negative rewards, over about the last thirty windows.

    A high expectile helps where gains and losses cancel in the mean. Where rewards have one sign
    only, it just overestimates states with uncertain outcomes, increasingly with every bootstrap.
    """

    gains: Tensor
    losses: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("gains", torch.zeros((), dtype=torch.float64))
        self.register_buffer("losses", torch.zeros((), dtype=torch.float64))

    @torch.no_grad()
    def update(self, reward: Float[Tensor, "time env agent"]) -> None:
        """Add a window's rewards, summed over agents."""
        total = reward.double().sum(-1)
        self.gains.mul_(DECAY).add_(sum_over_ranks(total.clamp(min=0).sum()))
        self.losses.mul_(DECAY).sub_(sum_over_ranks(total.clamp(max=0).sum()))

    @property
    def share(self) -> float:
        """In [0, 1]: 0 if rewards have one sign only; 1 if the rarer sign reaches 1 % of the other.

        1 also before the first reward.
        """
        less, more = sorted([float(self.gains), float(self.losses)])
        return 1.0 if more == 0 else min(1.0, less / (ENOUGH * more))


class ReturnScale(nn.Module):
    r"""Running root mean square of the discounted return.

    The return of each env and agent is accumulated forward, $R_t = \gamma R_{t-1} + r_t$, and reset
    at episode starts. All agents have one scale; where they learn apart, an agent whose returns are
    less than a tenth of it has its own.
    """

    running: Tensor
    square: Tensor
    count: Tensor
    own: Tensor

    def __init__(self, envs: int, agents: int, gamma: float, *, apart: bool = False) -> None:
        """Start at a scale of 1; `apart` if each agent's return is its own."""
        super().__init__()
        self.gamma, self.apart = gamma, apart
        if apart:
            self.register_buffer("own", torch.zeros(agents, dtype=torch.float64))
        self.register_buffer("running", torch.zeros(envs, agents))
        self.register_buffer("square", torch.zeros((), dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))

    @torch.no_grad()
    def update(self, reward: Tensor, ended: Tensor) -> None:
        """Add rewards (time, env, agent) of a window; reset returns after `ended` (time, env)."""
        reward = torch.where(reward.isfinite(), reward, 0.0)
        before = self._sums
        for r, end in zip(reward, ended, strict=True):
            self.running = self.gamma * self.running + r
            squares = self.running.double().square()
            self.square = self.square + squares.sum()
            if self.apart:
                self.own = self.own + squares.sum(0)
            self.count = self.count + self.running.numel()
            self.running = torch.where(end.unsqueeze(-1), 0.0, self.running)
        if world_size() > 1:
            for old, total in zip(before, self._sums, strict=True):
                total.copy_(old + sum_over_ranks(total - old))

    @property
    def _sums(self) -> list[Tensor]:
        """What is summed over the envs of all ranks."""
        return [self.square, self.count, *([self.own] if self.apart else [])]

    @property
    def scale(self) -> Tensor:
        """The root mean square, a scalar or (agent,); 1 until the first nonzero reward."""
        if float(self.square) == 0:
            return torch.ones((), device=self.running.device)
        common = (self.square / self.count).sqrt().to(self.running.dtype)
        if not self.apart:
            return common
        own = (self.own / self.count * len(self.own)).sqrt().to(common)
        return torch.where((own > 0) & (own < HIDDEN * common), own, common)

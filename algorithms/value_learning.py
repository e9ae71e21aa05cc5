"""How SHAC learns values: TD(λ) targets, an expectile of them, replayed states."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from diffsurrogate.actor_critic.critic import Critic
from diffsurrogate.config import require_range
from diffsurrogate.data.replay import StratifiedReplay
from diffsurrogate.envs.window import Window
from diffsurrogate.functional.losses import expectile_loss, td_lambda
from diffsurrogate.training.optimisation import ClippedAdam
from diffsurrogate.training.trainer import Metrics

DECAY = 0.97
"""What a window's rewards still weigh one window later."""
ENOUGH = 0.01
"""Share of the gains that losses must make up to count in full."""


@dataclass(frozen=True, kw_only=True)
class ValueLearningConfig:
    """Hyperparameters of the value function's training."""

    lam: float = 0.95
    """λ of the value targets, TD(λ)."""
    lr: float = 3e-3
    """Adam's learning rate."""
    max_grad_norm: float = 1.0
    """Gradients are clipped to this norm."""
    minibatches: int = 8
    """Minibatches per iteration."""
    batch_size: int = 512
    """States of a minibatch."""
    capacity: int = 20_000
    """States each bin of the replay holds; 0 trains on the current window only."""
    bins: int = 9
    """Bins of the replay, by value target."""
    balance: float = 0.5
    """Share of a minibatch spread evenly over the bins, in [0, 1]."""
    expectile: float = 0.5
    """Expectile of the targets that is learned (arXiv:2110.06169, eq. 5), in [.01, .99]: .5 is the
    mean, more is optimistic."""
    expectile_one_signed: float | None = None
    """Expectile where rewards have one sign only (`RewardSignBalance`); None for `expectile`
    everywhere."""

    def __post_init__(self) -> None:
        require_range(self, "lam", "balance", low=0.0, high=1.0)
        require_range(self, "lr", "capacity", low=0.0)
        require_range(self, "max_grad_norm", low=1e-12)
        require_range(self, "minibatches", "batch_size", "bins", low=1.0)
        require_range(self, "expectile", low=0.01, high=0.99)
        if self.expectile_one_signed is not None:
            require_range(self, "expectile_one_signed", low=0.01, high=0.99)

    def expectile_at(self, balance: float) -> float:
        """Return the expectile for a share of rewards, in [0, 1], that cancel each other."""
        settled = self.expectile if self.expectile_one_signed is None else self.expectile_one_signed
        return settled + (self.expectile - settled) * balance


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
        betas: tuple[float, float],
        generator: torch.Generator,
    ) -> None:
        """Start with a critic.

        Args:
            config: hyperparameters.
            critic: the value function, on the device of the windows.
            num_envs: copies of the env.
            num_agents: agents of each.
            gamma: discount.
            scale_rewards: divide rewards by the running deviation of returns.
            betas: of Adam.
            generator: on the CPU, of minibatches.
        """
        self.config = config
        self.critic = critic
        self.gamma = gamma
        self.scales_rewards = scale_rewards
        self.generator = generator
        device = next(critic.parameters()).device
        self.scale = ReturnScale(num_envs, num_agents, gamma).to(device)
        self.sign_balance = RewardSignBalance().to(device)
        self.optimiser = ClippedAdam(
            critic, config.lr, max_grad_norm=config.max_grad_norm, betas=betas
        )
        self.replay: StratifiedReplay | None = None
        if config.capacity > 0:
            self.replay = StratifiedReplay(config.capacity, config.bins, device)

    @torch.no_grad()
    def targets(self, window: Window) -> Tensor:
        """Take rewards into their scale; return TD(λ) targets (time, env, agent)."""
        if self.scales_rewards:
            self.scale.update(window.reward, window.ended)
        return td_lambda(
            window.reward / self.scale.scale,
            self.critic.target(window.next_obs),
            window.terminated,
            window.truncated,
            gamma=self.gamma,
            lam=self.config.lam,
        )

    def fit(self, window: Window, target: Tensor) -> Metrics:
        """Train the critic on the targets of a window, and on what is replayed."""
        self.sign_balance.update(window.reward)
        obs, target = window.obs.flatten(0, 1), target.flatten(0, 1)
        finite = target.isfinite().all(-1)
        if not bool(finite.all()):
            obs, target = obs[finite], target[finite]
        if len(target) == 0:
            return {}
        if self.replay is not None:
            self.replay.add(target.mean(-1), {"obs": obs, "target": target})
        total, expectile = 0.0, self.config.expectile_at(self.sign_balance.share)
        for batch in self._minibatches(obs, target):
            loss = expectile_loss(self.critic(batch["obs"]), batch["target"], expectile=expectile)
            self.optimiser.step(loss)
            total += float(loss.detach()) / self.config.minibatches
        self.critic.update_target()
        report = {"critic_loss": total, "value_target": float(target.mean())}
        if self.config.expectile_one_signed is not None:
            report["expectile"] = expectile
        return report

    def _minibatches(self, obs: Tensor, target: Tensor) -> Iterator[dict[str, Tensor]]:
        size = self.config.batch_size
        if self.replay is not None:
            for _ in range(self.config.minibatches):
                yield self.replay.sample(size, self.generator, self.config.balance)
            return
        order = torch.empty(0, dtype=torch.long)
        for _ in range(self.config.minibatches):
            if len(order) < min(size, len(obs)):
                order = torch.randperm(len(obs), generator=self.generator)
            chosen, order = order[:size], order[size:]
            yield {"obs": obs[chosen], "target": target[chosen]}


class RewardSignBalance(nn.Module):
    r"""How far losses cancel gains, over the last thirty windows or so.

    Random pushes of a package to its goal lose as often as they win, and even a policy that knows
    the way loses now and then; a found target is only ever a gain. Where rewards have one sign,
    nothing is hidden by a mean, and a high expectile overrates every state whose outcomes differ,
    more so with every bootstrap.
    """

    gains: Tensor
    losses: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("gains", torch.zeros((), dtype=torch.float64))
        self.register_buffer("losses", torch.zeros((), dtype=torch.float64))

    @torch.no_grad()
    def update(self, reward: Float[Tensor, "time env agent"]) -> None:
        """Take a window's rewards in; those of a team are summed first."""
        team = reward.double().sum(-1)
        self.gains.mul_(DECAY).add_(team.clamp(min=0).sum())
        self.losses.mul_(DECAY).sub_(team.clamp(max=0).sum())

    @property
    def share(self) -> float:
        """In [0, 1]: 0 with rewards of one sign only; 1 where the rarer sign makes up 1 %.

        It is 1, too, while there was no reward at all.
        """
        less, more = sorted([float(self.gains), float(self.losses)])
        return 1.0 if more == 0 else min(1.0, less / (ENOUGH * more))


class ReturnScale(nn.Module):
    r"""Running deviation of the discounted return, about zero.

    The return of each env and agent is summed forward, $R_t = \gamma R_{t-1} + r_t$, and starts
    anew with each episode.
    """

    running: Tensor
    square: Tensor
    count: Tensor

    def __init__(self, envs: int, agents: int, gamma: float) -> None:
        """Start at a scale of 1."""
        super().__init__()
        self.gamma = gamma
        self.register_buffer("running", torch.zeros(envs, agents))
        self.register_buffer("square", torch.zeros((), dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))

    @torch.no_grad()
    def update(self, reward: Tensor, ended: Tensor) -> None:
        """Take in the rewards (time, env, agent) of a window; `ended` (time, env) cuts returns."""
        for r, end in zip(reward, ended, strict=True):
            self.running = self.gamma * self.running + r
            self.square = self.square + self.running.double().square().sum()
            self.count = self.count + self.running.numel()
            self.running = torch.where(end.unsqueeze(-1), 0.0, self.running)

    @property
    def scale(self) -> Tensor:
        """The deviation, a scalar; 1 while every reward was zero."""
        if float(self.square) == 0:
            return torch.ones((), device=self.running.device)
        return (self.square / self.count).sqrt().to(self.running.dtype)

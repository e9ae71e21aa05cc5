"""Maximum-entropy policies: a bonus for the policy's entropy, whose weight sets itself."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from diffsurrogate.actor_critic.actor import Actor
from diffsurrogate.actor_critic.hidden_states import actor_past
from diffsurrogate.config import require_range
from diffsurrogate.envs.window import Window
from diffsurrogate.errors import UsageError
from diffsurrogate.optimisation import ClippedAdam
from diffsurrogate.training.metrics import Metrics


@dataclass(frozen=True, kw_only=True)
class EntropyConfig:
    r"""A bonus $\alpha \hat H$ for the policy's entropy, in every reward (SAPO, arXiv:2412.12089).

    $\hat H = (H + |\bar H|) / 2 |\bar H|$ is 0 at the target $\bar H$, and 1 at its opposite.
    """

    temperature: float = 0.0
    """Initial weight α of the bonus, in units of the rewards that are learned from, such as 1; 0
    for no bonus at all."""
    target: float = -0.5
    """Of the entropy, in nats per action feature normalised to [-1, 1]; below 0. A uniform action
    has .69."""
    lr: float = 5e-3
    """Adam's learning rate of log α, which falls while the entropy is above its target and rises
    while it is below; 0 for a fixed α."""

    def __post_init__(self) -> None:
        require_range(self, "temperature", "lr", low=0.0)
        if not self.target < 0:
            raise UsageError(f"target is {self.target}; that of the entropy must be below 0")


class EntropyBonus:
    """The entropy bonus of a policy of continuous actions, and its weight."""

    def __init__(
        self,
        config: EntropyConfig,
        actor: Actor,
        *,
        max_grad_norm: float,
        betas: tuple[float, float],
    ) -> None:
        """Begin at the configured temperature.

        Args:
            config: temperature and target.
            actor: the policy.
            max_grad_norm: the gradient of log α is clipped to it.
            betas: Adam's.

        Raises:
            UsageError: actions are discrete, or the standard deviation is fixed without a squash,
                so that the entropy cannot change.
        """
        if actor.discrete:
            raise UsageError(
                "entropy is a bonus for policies of continuous actions, but they are discrete "
                "here; leave its temperature at 0"
            )
        if not (actor.config.squash or actor.config.learn_std or actor.state_dependent_std):
            raise UsageError(
                "entropy is a bonus for policies whose standard deviation is learned, but it is "
                "fixed here; set actor.learn_std or actor.state_dependent_std, or leave the "
                "temperature at 0"
            )
        self.actor = actor
        free = actor.action_space.free.sum(-1)
        self.target = config.target * free
        """(agent,) of the entropy, in nats."""
        self.weight = Temperature(config.temperature).to(free.device)
        self.optimiser = ClippedAdam(
            self.weight, config.lr, max_grad_norm=max_grad_norm, betas=betas
        )

    def of(self, window: Window) -> Tensor:
        """Return the bonus (time, env, agent) of a window's states; 0 for dead agents."""
        entropy = self.actor.entropy(window.obs, past=actor_past(window))
        size = self.target.abs().clamp(min=1e-6)
        bonus = self.weight().detach() * (entropy - self.target) / (2 * size)
        return bonus if window.alive_mask is None else bonus * window.alive_mask

    def adapt(self, window: Window) -> Metrics:
        """Move the temperature towards the target by one step, and report."""
        with torch.no_grad():
            excess = self.actor.entropy(window.obs, past=actor_past(window)) - self.target
        excess = excess if window.alive_mask is None else excess[window.alive_mask]
        mean = excess.mean()
        if self.optimiser.lr > 0:
            self.optimiser.step(self.weight() * mean, rows=excess.numel())
        temperature = float(self.weight().detach())
        return {"entropy": float(mean + self.target.mean()), "temperature": temperature}


class Temperature(nn.Module):
    """A positive weight."""

    def __init__(self, alpha: float) -> None:
        """Begin at `alpha`."""
        super().__init__()
        self.log_alpha = nn.Parameter(torch.tensor(alpha).log())

    def forward(self) -> Tensor:
        """Return α, a scalar."""
        return self.log_alpha.exp()

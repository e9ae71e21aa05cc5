"""Which observation entries only take discrete values, and so carry no gradient."""

import torch
from torch import Tensor, nn

from diffsurrogate.errors import UsageError


class ContinuousEntries(nn.Module):
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

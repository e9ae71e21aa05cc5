"""The adaptive gradient horizon: windows are cut where gradients grow along them.

AHAC (arXiv:2405.17784) shortens SHAC's horizon where contact forces make gradients large. Here the
measured growth of the gradient decides, so that no contact force is needed.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from diffsurrogate.distributed import mean_over_ranks

MAX_GROWTH = 10.0
"""Growth that is usually allowed."""
_DECAY = 0.8
"""Of the running mean of the log growth, per window."""
_CALM = 10
"""Windows in a row with less than half of the allowed growth before segments become longer."""


class AdaptiveHorizon(nn.Module):
    """Length of the segments that windows are differentiated in.

    With a good value function the gradient at a segment's first action is as large as that at its
    last: what follows the segment is in the value. Where the simulator or the model amplifies, it
    is larger. The ratio, as root mean squares over envs and segments, is the growth; above
    `max_growth` the segments are shortened to the next divisor of the horizon, and lengthened after
    some windows with less than half of it.
    """

    length: Tensor
    log_growth: Tensor
    calm: Tensor

    def __init__(self, horizon: int, max_growth: float) -> None:
        """Start at whole windows of `horizon` steps."""
        super().__init__()
        self.lengths = [length for length in range(1, horizon + 1) if horizon % length == 0]
        self.max_growth = max_growth
        self.register_buffer("length", torch.tensor(horizon))
        self.register_buffer("log_growth", torch.tensor(0.0))
        self.register_buffer("calm", torch.tensor(0))

    @torch.no_grad()
    def update(self, norms: Sequence[Tensor]) -> None:
        """Choose the length by the norms (env,) of actions' gradients, in the order of the steps.

        They are of whole segments; norms that are all zero are left out.
        """
        length = int(self.length)
        if length == 1:
            self._become_calm()
            return
        square = torch.stack(list(norms)).square().unflatten(0, (-1, length)).mean((0, 2))
        square = mean_over_ranks(square, norms[0].numel())
        if not bool(square[0] > 0) or not bool(square[-1] > 0):
            return
        growth = 0.5 * (square[0] / square[-1]).log()
        self.log_growth = self.log_growth.lerp(growth.to(self.log_growth), 1 - _DECAY)
        if self.growth > self.max_growth:
            self._change(-1)
        elif self.growth < self.max_growth / 2:
            self._become_calm()
        else:
            self.calm = torch.zeros_like(self.calm)

    @property
    def growth(self) -> float:
        """Running geometric mean of the growth over a segment."""
        return float(self.log_growth.exp())

    def _become_calm(self) -> None:
        self.calm = self.calm + 1
        if int(self.calm) >= _CALM:
            self._change(+1)

    def _change(self, by: int) -> None:
        """Take the next shorter or longer length, if there is one, and measure anew."""
        at = self.lengths.index(int(self.length)) + by
        at = min(max(at, 0), len(self.lengths) - 1)
        self.length = torch.full_like(self.length, self.lengths[at])
        self.log_growth, self.calm = torch.zeros_like(self.log_growth), torch.zeros_like(self.calm)

"""What an agent's part of a network is shown besides its own features."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


def numbered(x: Float[Tensor, "*b agent i"]) -> Float[Tensor, "*b agent o"]:
    """Append each agent's number, one-hot."""
    number = torch.eye(x.shape[-2], device=x.device, dtype=x.dtype)
    return torch.cat([x, number.expand(*x.shape[:-1], -1)], dim=-1)


class NumberedNet(nn.Module):
    """Shows every agent its number."""

    def __init__(self, net: nn.Module) -> None:
        """Wrap a network of `in_dim + agents` features per agent."""
        super().__init__()
        self.net = net

    def forward(self, x: Float[Tensor, "*b agent i"]) -> Float[Tensor, "*b agent o"]:
        """Map each agent's features and number."""
        out: Tensor = self.net(numbered(x))
        return out


class CentralNet(nn.Module):
    """Shows the features of all agents, concatenated, to each agent's part of a network."""

    def __init__(self, net: nn.Module) -> None:
        """Wrap a network of `agents * in_dim` features per agent."""
        super().__init__()
        self.net = net

    def forward(self, x: Float[Tensor, "*b agent i"]) -> Float[Tensor, "*b agent o"]:
        """Map all features for each agent."""
        everything = x.flatten(-2).unsqueeze(-2)
        out: Tensor = self.net(everything.expand(*x.shape[:-1], -1))
        return out

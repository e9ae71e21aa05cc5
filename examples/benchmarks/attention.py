"""Time structured against dense attention in the action world model, forward and backward.

    python examples/benchmarks/attention.py
    python examples/benchmarks/attention.py --agents 1 10 100 --tokens 3000 --freeze

The dense model is torch's `nn.TransformerEncoder` with the paper's attention mask and the same
weights (Bertolotti et al., ECAI 2025); both predict the same numbers. They run in turns, in one
process on one thread, so that a busy machine slows both; the ratio is the median over pairs.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor, nn

from diffsurrogate.surrogates.action_world_model import ActionWorldModel, ActionWorldModelConfig


class DenseActionWorldModel(nn.Module):
    """The same model with a dense mask: (batch, agent, obs_dim) and actions to states."""

    def __init__(self, model: ActionWorldModel) -> None:
        """Copy the weights of `model`."""
        super().__init__()
        self.model = model
        cfg = model.config
        layer = nn.TransformerEncoderLayer(
            cfg.width, cfg.heads, cfg.feedforward, dropout=0.0, batch_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, cfg.layers, enable_nested_tensor=False)
        ours = ("qkv.", "out.", "up.", "down.", "norm1.", "norm2.")
        theirs = ("self_attn.in_proj_", "self_attn.out_proj.", "linear1.", "linear2.", *ours[4:])
        for mine, copy in zip(model.layers, self.encoder.layers, strict=True):
            weights = mine.state_dict()
            copy.load_state_dict(
                {
                    there + kind: weights[here + kind]
                    for here, there in zip(ours, theirs, strict=True)
                    for kind in ("weight", "bias")
                }
            )

    def forward(self, obs: Tensor, actions: Tensor) -> Tensor:
        """Predict the states after each action: (batch, time, agent, obs_dim)."""
        model, (_, horizon, agents, _) = self.model, actions.shape
        state = model.state_in((obs - model.obs_mean) / model.obs_std)
        token = torch.cat([state[:, None], model.action_in(actions)], dim=1)
        token = (token + model.step_embedding.weight[: horizon + 1, None]).flatten(1, 2)
        token = self.encoder(token, mask=unseen(horizon + 1, agents))
        token = token.unflatten(1, (horizon + 1, agents))[:, 1:]
        return obs[:, None] + model.change_scale[:horizon, None] * model.head(token)


def unseen(time: int, agents: int) -> Tensor:
    """(token, token) bool: True where the paper's mask hides a token."""
    step = torch.arange(time).repeat_interleave(agents)
    agent = torch.arange(agents).repeat(time)
    own_past = (agent[:, None] == agent) & (step[:, None] >= step)
    return ~(own_past | (step[:, None] == step))


def seconds(run: Callable[[], Tensor]) -> float:
    """Run forward and backward once."""
    start = time.perf_counter()
    run().square().mean().backward()
    return time.perf_counter() - start


def compare(agents: int, args: argparse.Namespace) -> None:
    """Print one row of the table."""
    torch.manual_seed(0)
    config = ActionWorldModelConfig(
        feedforward=args.feedforward, max_horizon=args.horizon, heads=args.heads
    )
    model = ActionWorldModel(config, agents, args.obs_dim, 2)
    nn.init.normal_(model.head.weight, std=0.1)
    dense = DenseActionWorldModel(model)
    if args.freeze:
        dense.requires_grad_(False)
    batch = max(1, args.tokens // (agents * (args.horizon + 1)))
    obs = torch.randn(batch, agents, args.obs_dim)
    actions = torch.randn(batch, args.horizon, agents, 2, requires_grad=True)
    with torch.no_grad():
        apart = (model(obs, actions) - dense(obs, actions)).abs().max().item()
    pairs: list[tuple[float, float]] = []
    deadline = time.perf_counter() + args.seconds
    while len(pairs) < 3 or time.perf_counter() < deadline:
        pairs.append((seconds(lambda: dense(obs, actions)), seconds(lambda: model(obs, actions))))
    slow, fast = (1e3 * median(column) for column in zip(*pairs, strict=True))
    ratio = median(a / b for a, b in pairs)
    row = f"{agents:6d} {batch:6d} {slow:11.1f} {fast:14.1f} {ratio:6.2f}x"
    print(f"{row} {len(pairs):6d} {apart:9.0e}", flush=True)


def main() -> None:
    """Read the command line and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--agents", type=int, nargs="+", default=[1, 3, 10, 50])
    parser.add_argument("--horizon", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=6600, help="per batch, at any agents")
    parser.add_argument("--obs-dim", type=int, default=13)
    parser.add_argument("--heads", type=int, default=1)
    parser.add_argument("--feedforward", type=int, default=128)
    parser.add_argument("--freeze", action="store_true", help="as in the policy's step")
    parser.add_argument("--seconds", type=float, default=10.0, help="per row")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print("agents  batch    dense ms  structured ms   ratio  pairs  max diff")
    for agents in args.agents:
        compare(agents, args)


if __name__ == "__main__":
    main()

"""What generated networks cost, beside separate ones: time, and numbers of weights.

    python examples/benchmarks/hypernets.py
    python examples/benchmarks/hypernets.py --agents 8 --states 2048 --seconds 20

Time is of the forward pass, and of forward, backward and a step of Adam as PPO takes them, on a
minibatch of `--states` states of all agents (8,192 samples at 8 agents and 1,024 states). All
networks run in turns, in one process on one thread, so that a busy machine slows all; the ratio to
separate networks (NoPS) is the median over rounds.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor, nn

from diffsurrogate.config import changed_to
from diffsurrogate.nets.build import build_net
from diffsurrogate.nets.config import (
    HyperLinearConfig,
    HyperMLPConfig,
    JointNetConfig,
    NetConfig,
    SeparateNetConfig,
    SharedNetConfig,
)

PLAIN = JointNetConfig(hidden=(64, 64), activation="tanh", layer_norm=False)
NETS: dict[str, NetConfig] = {
    "NoPS": changed_to(SeparateNetConfig, PLAIN),
    "FuPS+ID": changed_to(SharedNetConfig, PLAIN, pool_others=False, agent_id=True),
    "linear": changed_to(HyperLinearConfig, PLAIN),
    "MLP": changed_to(HyperMLPConfig, PLAIN),
}


def seconds(run: Callable[[], object]) -> float:
    """Run once."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def training_step(net: nn.Module, obs: Tensor) -> Callable[[], None]:
    """Return one step of learning on a minibatch."""
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        net(obs).square().mean().backward()
        optimiser.step()

    return step


def forward(net: nn.Module, obs: Tensor) -> Callable[[], None]:
    """Return the forward pass on a minibatch, as in a rollout."""

    def run() -> None:
        with torch.no_grad():
            net(obs)

    return run


def compare(agents: int, args: argparse.Namespace) -> None:
    """Print the rows of one number of agents."""
    torch.manual_seed(0)
    obs = torch.randn(args.states, agents, args.obs_dim)
    nets = {name: build_net(config, agents, args.obs_dim, 9) for name, config in NETS.items()}
    for kind, make in (("forward", forward), ("update", training_step)):
        runs = {name: make(net, obs) for name, net in nets.items()}
        rounds: list[dict[str, float]] = []
        deadline = time.perf_counter() + args.seconds
        while len(rounds) < 5 or time.perf_counter() < deadline:
            rounds.append({name: seconds(run) for name, run in runs.items()})
        rounds = rounds[2:]  # the first ones warm up
        for name in NETS:
            took = 1e3 * median(r[name] for r in rounds)
            ratio = median(r[name] / r["NoPS"] for r in rounds)
            print(f"| {agents} | {kind} | {name} | {took:.2f} | {ratio:.2f} |", flush=True)


def count(config: NetConfig, agents: int) -> int:
    """Return the weights of actor and critic: 16 features, 9 choices, as VMAS's Dispersion."""
    nets = [build_net(config, agents, 16, out_dim) for out_dim in (9, 1)]
    return sum(p.numel() for net in nets for p in net.parameters())


def main() -> None:
    """Read the command line and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--agents", type=int, nargs="+", default=[2, 8])
    parser.add_argument("--states", type=int, default=1024, help="in a minibatch")
    parser.add_argument("--obs-dim", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=6.0, help="per number of agents and kind")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print("| agents | what | network | ms, median | of NoPS |\n|---|---|---|---|---|")
    for agents in args.agents:
        compare(agents, args)
    print(f"\n| agents | {' | '.join(NETS)} |\n|{'---|' * (len(NETS) + 1)}")
    for power in range(2, 11):
        counts = [f"{count(config, 2**power):,}" for config in NETS.values()]
        print(f"| {2**power} | {' | '.join(counts)} |")


if __name__ == "__main__":
    main()

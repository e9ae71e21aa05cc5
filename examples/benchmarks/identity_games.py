"""The two games of HyperMARL: must agents know their index, and what do shared weights cost?

    python examples/benchmarks/identity_games.py               # all, 4 CPU-minutes
    python examples/benchmarks/identity_games.py --agents 2    # some

Specialisation pays 1 / (number that made my choice), synchronisation 1 for agreement and 1/n
otherwise; each lasts one step and shows nothing (arXiv:2412.04233, section 3). REINFORCE without a
baseline: SGD with a learning rate of .01, 10 joint actions per update, 10,000 updates, then the
mean reward of 1,000 sampled ones. Runs of all seeds, games and learning rates are learned at once,
as a leading axis of all weights. JSON and Markdown go to examples/results.
"""

import argparse
import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, stack_module_state, vmap

from diffsurrogate import make
from diffsurrogate.config import changed_to
from diffsurrogate.nets.build import build_net
from diffsurrogate.nets.config import (
    HyperLinearConfig,
    HyperMLPConfig,
    NetConfig,
    SeparateNetConfig,
    SharedNetConfig,
)
from diffsurrogate.training.run_folder import write_rows
from diffsurrogate.wrappers.builtin.matrix_games import Game

RESULTS = Path(__file__).parent.parent / "results"
GAMES = ("specialisation", "synchronisation")
NETS = ("NoPS", "FuPS", "FuPS+ID", "linear", "MLP")
RATES = {"FuPS+ID": (0.01, 0.025, 0.1)}
"""Learning rates other than .01 alone."""
PAPER = {
    "specialisation": {
        "NoPS": (0.9996, 0.9988, 0.9989),
        "FuPS": (0.7493, 0.6826, 0.6545),
        "FuPS+ID": (0.9999, 0.9995, 0.7275),
    },
    "synchronisation": {
        "NoPS": (0.9993, 0.9976, 0.1250),
        "FuPS": (0.9999, 1.0, 0.3000),
        "FuPS+ID": (0.9999, 0.9999, 0.1250),
    },
}
"""Table 2 of the paper, 2, 4 and 8 agents; it has no hypernetworks."""
NOTES = """
- Agents that share all weights and do not know their index reach their bound, and no more.
- FuPS+ID does not fail with 8 agents for want of expressiveness: it earns .999 with a learning rate
  of .025 instead of .01. The paper's .73 is a matter of step size and budget.
- Every generated weight is a sum of several learned numbers, so that at the same learning rate
  hypernetworks take larger steps: part of their lead is that.
- In synchronisation 8 agents that know nothing agree once in 2 million times. Without a baseline a
  policy drifts to some choice even so; if all weights are shared that is agreement, in 7 of 10
  seeds. What gives agents weights of their own makes it rarer.
"""
"""Of the default options."""


@dataclass(frozen=True)
class Run:
    """One run: all runs of a network and a number of agents are learned side by side."""

    game: str
    rate: float
    seed: int


def network(name: str, agents: int) -> tuple[torch.nn.Module, int]:
    """Return a new network and how many features it sees; as small as the paper's.

    All see the number 1, but FuPS+ID the agent's number alone.
    """
    own = SeparateNetConfig(hidden=(4,), activation="relu", layer_norm=False)
    common = changed_to(SharedNetConfig, own, pool_others=False, hidden=(4 * agents,))
    nets: dict[str, NetConfig] = {
        "NoPS": own,
        "FuPS": common,
        "FuPS+ID": replace(common, agent_id=True),
        "linear": changed_to(HyperLinearConfig, own),
        "MLP": changed_to(HyperMLPConfig, own),
    }
    features = 0 if name == "FuPS+ID" else 1
    return build_net(nets[name], agents, features, agents), features


def shared_optimum(agents: int) -> float:
    """Return what specialisation pays at best if all agents choose alike, uniformly."""
    return 1 - (1 - 1 / agents) ** agents


def choose(logits: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Draw joint actions: logits (run, agent, choice) to (run, count, agent)."""
    runs, agents, choices = logits.shape
    chances = logits.detach().softmax(-1).reshape(-1, choices)
    drawn = torch.multinomial(chances, count, replacement=True, generator=generator)
    return drawn.reshape(runs, agents, count).transpose(1, 2)


def rewards(games: dict[str, Game], runs: Sequence[Run], choice: Tensor) -> Tensor:
    """Return what each agent earns, (run, count, agent); runs of a game stand together."""
    first = sum(run.game == GAMES[0] for run in runs)
    parts = (choice[:first], choice[first:])
    return torch.cat([games[g].payoff_of(part) for g, part in zip(GAMES, parts, strict=True)])


def learn(name: str, agents: int, runs: Sequence[Run], iterations: int) -> tuple[list[float], int]:
    """Return the mean reward of every run at the end, and the number of weights."""
    nets = []
    for run in runs:
        torch.manual_seed(run.seed)
        net, features = network(name, agents)
        nets.append(net)
    generator = torch.Generator().manual_seed(agents)
    made = {game: make(f"games/{game}", num_envs=1, n_agents=agents) for game in GAMES}
    games = {game: env for game, env in made.items() if isinstance(env, Game)}
    weights, buffers = stack_module_state(nets)
    skeleton = copy.deepcopy(nets[0]).to("meta")
    obs = torch.ones(agents, features)
    rates = {
        key: torch.tensor([run.rate for run in runs]).view(-1, *[1] * (value.ndim - 1))
        for key, value in weights.items()
    }

    def answer(own: dict[str, Tensor], constant: dict[str, Tensor]) -> Tensor:
        return functional_call(skeleton, (own, constant), (obs,))

    for _ in range(iterations):
        logits = vmap(answer)(weights, buffers)
        choice = choose(logits, 10, generator)
        reward = rewards(games, runs, choice)
        log_prob = logits.log_softmax(-1).gather(-1, choice.transpose(1, 2)).transpose(1, 2)
        loss = -(reward * log_prob).sum(-1).mean(1).sum()  # over agents, choices and runs
        gradients = torch.autograd.grad(loss, list(weights.values()))
        with torch.no_grad():
            for (key, value), gradient in zip(weights.items(), gradients, strict=True):
                value -= rates[key] * gradient
    with torch.no_grad():
        final = rewards(games, runs, choose(vmap(answer)(weights, buffers), 1000, generator))
    return final.mean((1, 2)).tolist(), sum(p.numel() for p in nets[0].parameters())


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return one row for each game, network, number of agents and learning rate."""
    rows = []
    for name in args.networks:
        for agents in args.agents:
            began = time.process_time()
            rates = RATES.get(name, (0.01,))
            runs = [Run(g, r, s) for g in GAMES for r in rates for s in range(args.seeds)]
            got, weights = learn(name, agents, runs, args.iterations)
            for game in GAMES:
                for rate in rates:
                    pairs = zip(runs, got, strict=True)
                    values = [v for run, v in pairs if (run.game, run.rate) == (game, rate)]
                    mean, std = torch.tensor(values).mean(), torch.tensor(values).std(correction=0)
                    rows.append(
                        {
                            "game": game,
                            "network": name,
                            "agents": agents,
                            "rate": rate,
                            "weights": weights,
                            "mean": round(float(mean), 4),
                            "std": round(float(std), 4),
                            "seeds": [round(value, 4) for value in values],
                        }
                    )
            seconds = time.process_time() - began
            print(f"{name} {agents}: {seconds:.0f} CPU-s", flush=True)
    return rows


def table(rows: list[dict[str, Any]], iterations: int) -> str:
    """Return the rows in Markdown, the paper's figures beside them."""
    places = {2: 0, 4: 1, 8: 2}
    seeds = len(rows[0]["seeds"])
    lines = [
        "# Who am I? The two games of HyperMARL",
        "",
        f"Mean reward ± standard deviation over {seeds} seeds after {iterations:,} updates of",
        "REINFORCE, learning rate .01 where none is named; by",
        "`python examples/benchmarks/identity_games.py`.",
        "Paper: table 2 of arXiv:2412.04233 (5 seeds), which has no hypernetworks. Bound: the most",
        "that agents which choose alike can earn, 1 − (1 − 1/n)ⁿ; with synchronisation it is 1.",
    ]
    for game in GAMES:
        chosen = [row for row in rows if row["game"] == game]
        agents = sorted({row["agents"] for row in chosen})
        lines += ["", f"## {game.capitalize()}", ""]
        heads = [f"n = {n} | paper | weights" for n in agents]
        lines += [f"| network | {' | '.join(heads)} |", "|---|" + "---|---|---|" * len(agents)]
        names = dict.fromkeys((row["network"], row["rate"]) for row in chosen)
        for name, rate in names:
            cells = []
            for n in agents:
                (row,) = [
                    r for r in chosen if (r["network"], r["rate"], r["agents"]) == (name, rate, n)
                ]
                figures = PAPER[game].get(name)
                known = figures is not None and rate == 0.01 and n in places
                paper = f"{figures[places[n]]:.4f}" if figures is not None and known else "–"
                cells.append(f"{row['mean']:.4f} ± {row['std']:.4f} | {paper} | {row['weights']}")
            title = name if rate == 0.01 else f"{name}, rate {rate:g}"
            lines.append(f"| {title} | {' | '.join(cells)} |")
        if game == "specialisation":
            bounds = " | ".join(f"{shared_optimum(n):.4f} | – | –" for n in agents)
            lines.append(f"| bound of agents that choose alike | {bounds} |")
    return "\n".join(lines) + "\n" + NOTES


def main() -> None:
    """Read the command line, learn and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--agents", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--networks", nargs="+", default=list(NETS), choices=NETS)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--iterations", type=int, default=10_000)
    parser.add_argument("--out", type=Path, default=RESULTS / "identity_games")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = measure(args)
    text = table(rows, args.iterations)
    write_rows(args.out.with_suffix(".json"), rows)
    args.out.with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()

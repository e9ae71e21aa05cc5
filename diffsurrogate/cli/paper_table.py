"""Table 1 of the SHAC++ paper: what it published, and which cells there are to train."""

from dataclasses import dataclass
from typing import Literal, get_args

from diffsurrogate.cli.options import Method, Network, Preset

CITATION = (
    "F. Bertolotti, G. Aguzzi, W. Cazzola, M. Viroli. SHAC++: A Neural Network to Rule All "
    "Differentiable Simulators. ECAI 2025, Table 1."
)
Task = Literal["dispersion", "transport", "discovery", "sampling"]
TASKS: tuple[Task, ...] = get_args(Task)
COLUMNS: tuple[Method, ...] = ("sb3-ppo", "ppo", "ippo", "mappo", "shac", "shac+", "shac++")
"""Methods from left to right."""
NETWORKS: tuple[Network, ...] = ("mlp", "shared", "transformer")
"""Networks from left to right."""

_NO = None
_METHODS = ("ppo", "shac", "shac+", "shac++")
_PUBLISHED: dict[tuple[str, int], tuple[float | None, ...]] = {
    # MLP: PPO, SHAC, SHAC+, SHAC++; Transformer: the same
    ("dispersion", 1): (1.00, _NO, 0.99, 1.00, _NO, _NO, _NO, _NO),
    ("dispersion", 3): (0.22, _NO, 0.64, 0.99, 0.15, _NO, 1.00, 1.00),
    ("dispersion", 5): (0.16, _NO, 0.85, 1.00, 0.14, _NO, 0.93, 0.93),
    ("transport", 1): (0.01, 1.00, 0.89, 1.00, _NO, _NO, _NO, _NO),
    ("transport", 3): (0.01, 0.84, 0.95, 0.41, 0.00, 0.95, 1.00, 0.95),
    ("transport", 5): (0.01, 0.14, 0.95, 0.45, 0.00, 1.00, 0.99, 0.99),
    ("discovery", 1): (0.33, _NO, 1.00, 0.35, _NO, _NO, _NO, _NO),
    ("discovery", 3): (0.03, _NO, 0.08, 0.08, 0.15, _NO, 1.00, 0.95),
    ("discovery", 5): (0.15, _NO, 0.14, 0.14, 0.39, _NO, 0.61, 1.00),
    ("sampling", 1): (0.07, 0.58, 0.59, 1.00, _NO, _NO, _NO, _NO),
    ("sampling", 3): (0.09, 0.86, 0.93, 0.92, 0.16, 0.94, 1.00, 1.00),
    ("sampling", 5): (0.12, 0.83, 0.92, 0.86, 0.43, 1.00, 0.89, 0.92),
}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell of the table: what is trained, whatever the seed."""

    task: Task
    agents: int
    method: Method
    network: Network

    @property
    def env(self) -> str:
        """Its env id."""
        return f"paper/{self.task}"

    @property
    def name(self) -> str:
        """Its part of a run folder's name."""
        return f"{self.task}-{self.agents}-{self.method}-{self.network}"

    @property
    def row(self) -> tuple[Task, int]:
        """The row of the table it is in."""
        return (self.task, self.agents)

    @property
    def place(self) -> tuple[int, int, int, int]:
        """Sorts cells as the table reads."""
        network, method = NETWORKS.index(self.network), COLUMNS.index(self.method)
        return (TASKS.index(self.task), self.agents, network, method)


def published(cell: Cell) -> float | None:
    """Return the paper's figure: the mean reward over that of the best cell of the row.

    Its PPO is not a fair baseline: its public code pairs observations with the wrong actions, and
    densities of clamped with those of unclamped actions.
    """
    row = _PUBLISHED.get(cell.row)
    if row is None or cell.method not in _METHODS or cell.network == "shared":
        return None
    return row[_METHODS.index(cell.method) + (4 if cell.network == "transformer" else 0)]


def why_left_out(cell: Cell, preset: Preset) -> str | None:
    """Return why a cell makes no sense; None if it does."""
    if cell.method == "shac" and cell.task in ("dispersion", "discovery"):
        return "its reward counts, and a count has no gradient (the paper leaves it out as well)"
    if cell.network == "transformer" and cell.agents == 1:
        return "there is nobody to attend to (the paper leaves it out as well)"
    if cell.network == "transformer" and cell.method == "ippo":
        return "its agents see only themselves"
    if cell.network == "transformer" and cell.method == "sb3-ppo":
        return "it has no such network"
    if preset == "paper" and cell.method not in _METHODS:
        return "the paper has no such method"
    if preset == "paper" and cell.network == "shared":
        return "the paper has no such network"
    return None

"""Table 1 of the SHAC++ paper: what it published, and which cells there are to train."""

from diffsurrogate.cli.reproduce.table import Cell, PaperTable, Task
from diffsurrogate.presets.recipe import Method, Preset

_NO = None
_METHODS: tuple[Method, ...] = ("ppo", "shac", "shac+", "shac++")
_PUBLISHED: dict[tuple[str, int | None], tuple[float | None, ...]] = {
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


def published(cell: Cell) -> float | None:
    """Return the paper's figure: the mean reward over that of the best cell of the row.

    Its PPO is not a fair baseline: its public code pairs observations with the wrong actions, and
    densities of clamped with those of unclamped actions.
    """
    row = _PUBLISHED.get(cell.row)
    if row is None or cell.method not in _METHODS or cell.network not in ("mlp", "transformer"):
        return None
    return row[_METHODS.index(cell.method) + (4 if cell.network == "transformer" else 0)]


def why_left_out(cell: Cell, preset: Preset) -> str | None:
    """Return why a cell makes no sense; None if it does."""
    if cell.method == "shac" and cell.task in ("dispersion", "discovery"):
        return "its reward counts, and a count has no gradient (the paper leaves it out as well)"
    if cell.network.startswith("transformer") and cell.agents == 1:
        return "there is nobody to attend to (the paper leaves it out as well)"
    if preset == "paper" and cell.method not in _METHODS:
        return "the paper has no such method"
    if preset == "paper" and cell.network not in ("mlp", "transformer"):
        return "the paper has no such network"
    return None


TABLE1 = PaperTable(
    name="table1",
    title="Table 1 of the SHAC++ paper",
    citation=(
        "F. Bertolotti, G. Aguzzi, W. Cazzola, M. Viroli. SHAC++: A Neural Network to Rule All "
        "Differentiable Simulators. ECAI 2025, Table 1."
    ),
    tasks={
        task: Task(env=f"paper/{task}", agents=(1, 3, 5))
        for task in ("dispersion", "transport", "discovery", "sampling")
    },
    methods=("ppo", "mappo", "shac", "shac+", "shac++"),
    networks=("mlp", "transformer"),
    seeds=(42, 43, 44),
    published=published,
    why_left_out=why_left_out,
)

"""The matrix games and MaMuJoCo curves of BPPO's paper, which gives no numbers for either."""

from diffsurrogate.cli.reproduce.table import Cell, PaperTable, Task
from diffsurrogate.presets.recipe import Preset

_ON_ROBOTS = (
    *("--ppo.horizon", "100", "--ppo.clip.epochs", "5", "--ppo.clip.batch-size", "1000000"),
    *("--ppo.clip.lr", "3e-4", "--ppo.critic-lr", "3e-4", "--ppo.clip.max-grad-norm", "10"),
    *("--ppo.actor.net.activation", "relu", "--ppo.critic.net.activation", "relu"),
    *("--num-envs", "40"),
    *("--total-steps", "10000000", "--eval-every", "25"),
)
"""What the other methods take by themselves (table 6 of the paper), for mappo."""


def _robot(env: str, joints: int = 0) -> Task:
    """Return a robot's task, whose agents see what is up to so many joints away."""
    seen = ("--env-options", "agent_obsk", str(joints))
    return Task(
        env=env, options=lambda cell: (*(_ON_ROBOTS if cell.method == "mappo" else ()), *seen)
    )


def _why_left_out(cell: Cell, preset: Preset) -> str | None:
    if preset == "paper":
        return "the default preset is the paper's here"
    if cell.method not in ("mappo", "happo", "armappo", "bppo"):
        return "the paper has no such method"
    if cell.network != "mlp":
        return "the paper's agents have networks of their own"
    return None


BPTA = PaperTable(
    name="bpta",
    title="BPPO: matrix games and MaMuJoCo",
    citation=(
        "Z. Li, W. Zhao, L. Wu, J. Pajarinen. Backpropagation Through Agents. AAAI 2024, figures "
        "4, 6 and 8."
    ),
    tasks={
        "climbing": Task(env="games/climbing"),
        "penalty": Task(env="games/penalty"),
        "halfcheetah-6x1": _robot("mamujoco/HalfCheetah-6x1"),
        "walker2d-6x1": _robot("mamujoco/Walker2d-6x1"),
        "ant-4x2": _robot("mamujoco/Ant-4x2", joints=9),  # all: the paper's None is one agent now
    },
    methods=("mappo", "happo", "armappo", "bppo"),
    networks=("mlp",),
    seeds=tuple(range(10)),
    variants={
        "raw": {
            "armappo": ("--bppo.actor.conditioning", "raw"),
            "bppo": ("--bppo.actor.conditioning", "raw"),
        },
        "no-peer": {"bppo": ("--bppo.no-use-peer-gradient",)},
        "simultaneous": {"bppo": ("--bppo.scheme", "simultaneous")},
        "reversed": {"bppo": ("--bppo.actor.order", "reversed")},
        "random": {"bppo": ("--bppo.actor.order", "random")},
    },
    over_maximum=False,
    why_left_out=_why_left_out,
)

"""The learning curves of SHAC's paper, its ablations, and what came after, on MuJoCo MJX."""

from diffsurrogate.cli.reproduce.table import Cell, PaperTable, Task
from diffsurrogate.presets.recipe import Method, Preset

_HORIZONS = {4: 512, 8: 256, 16: 128, 64: 32, 128: 16}
"""Steps of a window, and copies of the env that make as many steps per update as 64 of 32."""


def _shac(*options: str) -> dict[Method, tuple[str, ...]]:
    """Return a variant that SHAC alone has; each option is a name and its value."""
    return {"shac": tuple(f"--{word}" if at % 2 == 0 else word for at, word in enumerate(options))}


def _why_left_out(cell: Cell, preset: Preset) -> str | None:
    if preset != "default":
        return "every method has its own preset here, or that of a variant"
    if cell.method not in ("ppo", "sb3-sac", "shac", "shac+", "shac++"):
        return "the paper has no such method"
    if cell.network != "mlp":
        return "the paper's policies are MLPs"
    return None


SHAC_CURVES = PaperTable(
    name="shac",
    title="SHAC: cart-pole, Hopper, HalfCheetah, Ant and Humanoid",
    citation=(
        "J. Xu, V. Makoviychuk, Y. Narang, F. Ramos, W. Matusik, A. Garg, M. Macklin. Accelerated "
        "Policy Learning with Parallel Differentiable Simulation. ICLR 2022, figures 4, 6 and 7."
    ),
    tasks={
        "cartpole": Task(env="diffsurrogate/cartpole-swingup"),
        "hopper": Task(env="mjx/hopper"),
        "stiff-hopper": Task(
            env="mjx/hopper",
            options=lambda cell: (*("--env-options", "stiffness", "20", "rigid", "True"),),
        ),
        "halfcheetah": Task(env="mjx/halfcheetah"),
        "ant": Task(env="mjx/ant"),
        "humanoid": Task(env="mjx/humanoid"),
        "humanoid-muscle": Task(env="mjx/humanoid-muscle"),  # not the paper's Humanoid MTU
    },
    methods=("ppo", "sb3-sac", "shac"),
    networks=("mlp",),
    seeds=tuple(range(5)),
    variants={
        "default-preset": _shac("preset", "default"),
        "shac-preset": {"shac++": ("--preset", "shac")},
        "ahac": _shac("preset", "ahac"),
        "sapo": _shac("preset", "sapo"),
        "no-critic": {"shac": ("--shac.update.gradient.no-bootstrap",)},
        "no-target-critic": _shac("shac.critic.target-decay", "0"),
        "adaptive": _shac("shac.update.gradient.max-growth", "10"),
        "two-critics": _shac("shac.critic.ensemble", "2"),
        "entropy": _shac("shac.entropy.temperature", "1"),
        "constant-lr": _shac("shac.lr-schedule", "constant"),
        **{
            f"horizon-{steps}": _shac("shac.horizon", str(steps), "num-envs", str(copies))
            for steps, copies in _HORIZONS.items()
        },
    },
    over_maximum=False,
    why_left_out=_why_left_out,
    presets={"shac": "shac"},  # its paper's settings
)

"""The learning curves of HyperMARL, which gives no numbers for them."""

from diffsurrogate.cli.reproduce.table import Cell, PaperTable, Task
from diffsurrogate.presets.recipe import Preset

_DISPERSION = (
    *("--env-options", "continuous_actions", "False", "food_radius", "0.08"),
    *("penalise_by_time", "True", "--max-steps", "100", "--eval-steps", "100"),
    *("--num-envs", "128", "--ppo.horizon", "16", "--total-steps", "20000000"),
    *("--eval-every", "250", "--ppo.clip.lr", "5e-4", "--ppo.critic-lr", "5e-4"),
    *("--ppo.clip.batch-size", "1024", "--ppo.clip.entropy-weight", "0.01"),
    *("--ppo.actor.net.activation", "relu", "--ppo.critic.net.activation", "relu"),
)
"""Tables 5 and 7; a window is of as many steps, but of more envs, which is faster."""
_NAVIGATION = (
    *("--max-steps", "100", "--eval-steps", "100", "--num-envs", "600"),
    *("--total-steps", "1000000", "--eval-every", "1", "--ppo.horizon", "100"),
    *("--ppo.gamma", "0.9", "--ppo.lam", "0.9"),
    *("--ppo.clip.epochs", "45", "--ppo.clip.max-grad-norm", "5"),
    *("--ppo.actor.net.hidden", "256", "256", "--ppo.critic.net.hidden", "256", "256"),
)
"""Tables 8 and 12."""
_SHARED, _APART = ("shared", "shared-id"), ("hyper-linear", "hyper-mlp", "dico")
_CLIPPED_AT_A_TENTH = {
    *(("mlp", goals, n) for goals in ("same", "some") for n in (4, 8)),
    *((network, goals, 8) for network in _SHARED for goals in ("some", "different")),
    *((network, goals, n) for network in _APART for goals in ("some", "different") for n in (4, 8)),
    ("hyper-mlp", "same", 4),
}
"""Networks, goals and numbers of agents whose clip range is .1 instead of .2 (table 11)."""
_DICO_RATES = {
    **dict.fromkeys([("different", 4), ("different", 8), ("some", 8)], "2.5e-4"),
    ("some", 4): "5e-4",
}
_SMAX = (
    *("--num-envs", "128", "--ppo.horizon", "128", "--total-steps", "10000000"),
    *("--eval-every", "10", "--ppo.clip.batch-size", "4096", "--ppo.lr-schedule", "linear"),
    *("--ppo.clip.max-grad-norm", "0.25", "--ppo.actor.net.activation", "relu"),
    *("--ppo.critic.net.activation", "relu"),
    *("--ppo.actor.net.gru_size", "128", "--ppo.actor.net.hidden", "128"),
    *("--ppo.critic.net.gru_size", "128", "--ppo.critic.net.hidden", "128"),
)
"""Table 13: a layer, a GRU and another layer."""
_MAPS = {
    "smax-2s3z": "2s3z",
    "smax-3s5z": "3s5z",
    "smax-smacv2-10": "smacv2_10_units",
    "smax-smacv2-20": "smacv2_20_units",
}
_SMAX_RATES = {
    ("ippo", "2s3z"): ("0.004", "0.004", 4, 32),
    ("ippo", "3s5z"): ("0.004", "0.004", 64, 16),
    ("ippo", "smacv2_10_units"): ("0.001", "0.005", 4, 64),
    ("ippo", "smacv2_20_units"): ("0.005", "0.005", 64, 64),
    ("mappo", "2s3z"): ("0.002", "0.002", 64, 16),
    ("mappo", "3s5z"): ("0.002", "0.0003", 64, 16),
    ("mappo", "smacv2_10_units"): ("0.0003", "0.0003", 64, 64),
    ("mappo", "smacv2_20_units"): ("0.0003", "0.0003", 4, 64),
}
"""By method and map: the learning rate, and of MLP hypernetworks the learning rate and the sizes of
identities and of what lies between them and weights (table 14)."""


def _embedding(cell: Cell, size: int, hidden: int = 64) -> tuple[str, ...]:
    """Return the size of identities and of what lies between them and weights, for hyper-mlp."""
    if cell.network != "hyper-mlp":
        return ()
    nets = [f"--ppo.{part}.net" for part in ("actor", "critic")]
    sizes = [(f"{net}.identity-size", str(size)) for net in nets]
    widths = [(f"{net}.hyper-hidden", str(hidden)) for net in nets]
    return tuple(word for pair in (*sizes, *widths) for word in pair)


def _dispersion(cell: Cell) -> tuple[str, ...]:
    return (*_DISPERSION, *_embedding(cell, 8 if cell.method == "mappo" else 4))


def _navigation(cell: Cell) -> tuple[str, ...]:
    """Return the options for a cell: how many agents share a goal, and what table 11 selects."""
    agents, goals = cell.agents or 2, cell.task.removeprefix("navigation-")
    share = {"same": agents, "some": agents // 2, "different": 1}[goals]
    made = ("agents_with_same_goal", str(share), "observe_all_goals", "True")
    clip = "0.1" if (cell.network, goals, agents) in _CLIPPED_AT_A_TENTH else "0.2"
    rate = "5e-5"
    apart: tuple[str, ...] = ()
    if cell.network == "dico":
        rate = _DICO_RATES.get((goals, agents), rate)
        diversity = {"same": "0"}.get(goals, "1.2" if agents == 2 else "None")  # table 10
        apart = ("--ppo.actor.net.diversity", diversity)
    return (
        *(*_NAVIGATION, "--ppo.clip.clip-range", clip, "--ppo.clip.lr", rate, *apart),
        *("--ppo.critic-lr", rate),
        *_embedding(cell, 8 if cell.method == "mappo" else 4),
        *("--env-options", *made, "collisions", "False", "shared_rew", "False"),
    )


def _smax(cell: Cell) -> tuple[str, ...]:
    """Return tables 13 and 14 for a cell."""
    row = cell.method, _MAPS[cell.task]
    clip, entropy = ("0.2", "0") if cell.method == "mappo" else ("0.05", "0.01")
    rate, own_rate, size, hidden = _SMAX_RATES[row]
    if cell.network == "hyper-mlp":
        rate = own_rate
    return (
        *(*_SMAX, "--ppo.clip.lr", rate, "--ppo.critic-lr", rate, "--ppo.clip.clip-range", clip),
        *("--ppo.clip.entropy-weight", entropy),
        *_embedding(cell, size, hidden),
    )


def _why_left_out(cell: Cell, preset: Preset) -> str | None:
    if preset == "paper":
        return "the default preset is the paper's here"
    if cell.method not in ("ippo", "mappo"):
        return "the paper has no such method"
    if cell.network == "dico" and not cell.task.startswith("navigation"):
        return "it sets distances of actions in a box, and these are choices"
    if cell.network == "dico" and cell.method == "mappo":
        return "the paper leaves it out"
    if cell.task == "navigation-some" and cell.agents is not None and cell.agents < 4:
        return "half of so few agents is one, who shares nothing"
    return None


HYPERMARL = PaperTable(
    name="hypermarl",
    title="HyperMARL: Dispersion, Navigation and SMAX",
    citation=(
        "K. Tessera, A. Rahman, S. Albrecht. HyperMARL: Adaptive Hypernetworks for Multi-Agent "
        "RL. arXiv:2412.04233, figures 2, 6 and 7."
    ),
    tasks={
        "dispersion": Task(env="vmas/dispersion", agents=(4,), options=_dispersion),
        "navigation-same": Task(env="vmas/navigation", agents=(2, 4, 8), options=_navigation),
        "navigation-some": Task(env="vmas/navigation", agents=(4, 8), options=_navigation),
        "navigation-different": Task(env="vmas/navigation", agents=(2, 4, 8), options=_navigation),
        **{
            name: Task(env=f"jaxmarl/HeuristicEnemySMAX-{units}", options=_smax)
            for name, units in _MAPS.items()
        },
    },
    methods=("ippo", "mappo"),
    networks=("mlp", "shared", "shared-id", "hyper-linear", "hyper-mlp", "dico"),
    seeds=(30, 1, 42, 72858, 2300658),
    over_maximum=False,
    colour_by="network",
    why_left_out=_why_left_out,
)

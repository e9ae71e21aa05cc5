"""What `diffsurrogate train` can be told, and its JSON form."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from diffsurrogate.algorithms.bppo import BPPOConfig
from diffsurrogate.algorithms.ppo import PPOConfig
from diffsurrogate.algorithms.shac_config import SHACConfig
from diffsurrogate.config import config_from_dict, require_range
from diffsurrogate.errors import UsageError
from diffsurrogate.surrogates.config import SurrogateConfig
from diffsurrogate.wrappers.sb3.config import SB3Config

EnvOptions = dict[str, bool | int | float | str]
"""Keywords of `make` by name, such as continuous_actions of vmas/ ids."""
_HAVE_THEIR_OWN = {
    "num_envs": "give --num-envs instead",
    "n_agents": "give --agents instead",
    "seed": "give --seed instead",
    "device": "give --device instead",
    "render_mode": "pictures are made at the end of a training and by render",
    "differentiable": "train shac and check-gradients ask for it by themselves",
}


def check_env_options(options: EnvOptions, *, max_steps: bool = False) -> None:
    """Refuse what is said in another way.

    Args:
        options: names and values.
        max_steps: whether the command has an option of that name.

    Raises:
        UsageError: a name has an option of its own.
    """
    own = _HAVE_THEIR_OWN | ({"max_steps": "give --max-steps instead"} if max_steps else {})
    for name in options:
        if name in own:
            raise UsageError(f"{name} cannot be given by --env-options; {own[name]}")


def usual_agents(env: str, agents: int | None) -> int | None:
    """Return the number of agents, 1 on the paper's tasks and the env's own where none is given."""
    return 1 if agents is None and env.startswith("paper/") else agents


def made_with(agents: int | None, options: EnvOptions) -> EnvOptions:
    """Return what `make` is told: the number of agents, if it was given, and the rest."""
    return options | ({} if agents is None else {"n_agents": agents})


Method = Literal[
    "shac", "shac+", "shac++", "ppo", "ippo", "mappo", "bppo", "armappo", "happo", "sb3-ppo"
]
SEQUENTIAL_METHODS = ("bppo", "armappo", "happo")
"""Methods whose agents learn apart, each with a policy of its own."""
Network = Literal[
    "mlp",
    "shared",
    "shared-id",
    "transformer",
    "transformer-id",
    "hyper-linear",
    "hyper-mlp",
    "dico",
]
Preset = Literal["default", "paper"]
_SECTIONS = {
    "shac": SHACConfig,
    "surrogates": SurrogateConfig,
    "ppo": PPOConfig,
    "bppo": BPPOConfig,
    "sb3": SB3Config,
}
NOT_LEARNED_BY = frozenset({"out", "resume", "threads", "progress", "film_steps"})
"""Options that change nothing of what is learned and measured, only where and how it is shown."""
EVALUATION_SEED = 1_000_003
"""Of evaluations on the way."""
FINAL_SEED = 2_000_003
"""Of the evaluation at the end; another than that of evaluations on the way."""


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Train a policy, and leave a run folder with checkpoints, metrics, a curve and a GIF.

    Defaults depend on METHOD, ENV, --agents and --network; help after these shows those in force.
    """

    method: tyro.conf.Positional[Method]
    """shac: the simulator's own gradients. shac+: its dynamics and a learned reward. shac++:
    everything learned. The others need no gradients. ppo: one controller of all agents. ippo: every
    agent learns from its own observation and reward. mappo: agents act on their own observations,
    a critic sees all. bppo: mappo whose agents act one after another, seeing the actions before
    their own, and learn the other way round, with feedback from those after them. armappo: the same
    without feedback, all at once. happo: mappo whose agents learn in turn. sb3-ppo:
    Stable-Baselines3's PPO, an extra."""
    env: tyro.conf.Positional[str]
    """Such as paper/dispersion, vmas/navigation, gymnasium/CartPole-v1 or
    diffsurrogate/cartpole-swingup."""
    num_envs: int = 256
    """Copies of the env that are stepped together."""
    agents: int | None = None
    """Number of agents, where the env lets one choose."""
    env_options: EnvOptions = field(default_factory=dict)
    """What else the env is made with, a name and a value each, such as --env-options
    continuous_actions False; what there is says the page of the env's source (docs/envs)."""
    seed: int = 0
    """Of the env, the weights, the noise and the minibatches."""
    total_steps: int = 5_000_000
    """Env steps to take in all, counted over the copies."""
    time_limit: float | None = None
    """Wall-clock seconds after which to stop."""
    cpu_limit: float | None = None
    """CPU-seconds of training, without evaluations, after which to stop."""
    max_steps: int | None = None
    """Time limit of training episodes, in steps; None for the env's own."""
    stop_at: float | None = 0.95
    """Normalised return at which to stop; envs without a known maximum never do."""
    eval_every: int = 20
    """Updates between evaluations."""
    eval_envs: int = 512
    """Episodes of an evaluation."""
    eval_steps: int | None = None
    """Length of an evaluation episode; None for the env's own time limit."""
    checkpoint_every: int = 25
    """Updates between checkpoints."""
    out: Path | None = None
    """The run folder; None for a name below runs/ made of all these."""
    resume: bool = False
    """Continue the run in --out from its last checkpoint, with the configuration it has: nothing
    need be repeated, METHOD and ENV neither."""
    device: str = "cpu"
    """cpu, cuda or cuda:<number>."""
    threads: int = 1
    """CPU threads; small networks are fastest with 1."""
    film_steps: int = 200
    """Steps of the GIF made at the end; 0 for none."""
    progress: bool = True
    """Show a progress bar; without a terminal, a line per evaluation."""
    network: Network = "mlp"
    """Of the policy. mlp: the method's own, one over all agents together; for ippo and mappo one
    for each agent. shared: one for every agent with the same weights, which sees the mean of all;
    for ippo, mappo and sb3-ppo its own features only. shared-id: shared, and told the number of the
    agent. transformer: attention over agents, which knows no number or order of them; not for ippo.
    transformer-id: the same, and told their numbers. hyper-linear, hyper-mlp: one for each agent,
    whose weights a hypernetwork generates from the agent's identity (HyperMARL); of ippo and mappo
    the critic too. dico: shared plus one for each agent, in a given diversity; not for choices.
    sb3-ppo has mlp and shared only."""
    preset: Preset = "default"
    """Of all the defaults. default: what measured best. paper: the numbers of SHAC++ (ECAI 2025),
    for ppo, shac, shac+ and shac++."""
    shac: Annotated[SHACConfig, tyro.conf.arg(name="shac")] = field(default_factory=SHACConfig)
    surrogates: SurrogateConfig = field(default_factory=SurrogateConfig)
    ppo: PPOConfig = field(default_factory=PPOConfig)
    bppo: BPPOConfig = field(default_factory=BPPOConfig)
    sb3: SB3Config = field(default_factory=SB3Config)

    def __post_init__(self) -> None:
        """Refuse what cannot work before anything is written."""
        require_range(self, "num_envs", "total_steps", "eval_every", "eval_envs", low=1.0)
        require_range(self, "checkpoint_every", "threads", low=1.0)
        require_range(self, "film_steps", "seed", low=0.0)
        check_env_options(self.env_options, max_steps=True)
        for name in ("agents", "max_steps", "eval_steps"):
            if getattr(self, name) is not None:
                require_range(self, name, low=1.0)
        for name in ("time_limit", "cpu_limit"):
            if getattr(self, name) is not None:
                require_range(self, name, low=0.0)
        if self.network != "mlp" and self.method in SEQUENTIAL_METHODS:
            raise UsageError(
                f"{self.method} gives every agent an MLP of its own; leave out --network "
                f"{self.network}, or use another method"
            )
        if self.network.startswith("transformer") and self.method == "ippo":
            raise UsageError(
                "ippo cannot use a Transformer over agents, as its agents see only themselves; use "
                "another --network, or another method"
            )
        if self.network not in ("mlp", "shared") and self.method == "sb3-ppo":
            raise UsageError(
                f"sb3-ppo has no {self.network} network; use --network mlp or shared, or another "
                "method"
            )
        if self.network == "dico" and self.agents == 1:
            raise UsageError(
                "--network dico sets how differently agents act, but there is 1; give --agents, or "
                "use --network mlp"
            )

    @property
    def sections(self) -> tuple[str, ...]:
        """Names of the fields of hyperparameters that the method reads."""
        if self.method == "sb3-ppo":
            return ("sb3",)
        if self.method in SEQUENTIAL_METHODS:
            return ("bppo",)
        return ("ppo",) if self.method in ("ppo", "ippo", "mappo") else ("shac", "surrogates")

    def refuse_idle_sections(self) -> None:
        """Refuse hyperparameters of other methods, which would do nothing.

        Raises:
            UsageError: some were given.
        """
        for name, kind in _SECTIONS.items():
            if name not in self.sections and getattr(self, name) != kind():
                raise UsageError(
                    f"{self.method} does not read --{name}.…; leave these options out, or set "
                    f"{' or '.join(f'--{section}.…' for section in self.sections)}"
                )

    @property
    def folder(self) -> Path:
        """The run folder."""
        agents = "" if self.agents is None else f"-{self.agents}"
        preset = "" if self.preset == "default" else f"-{self.preset}"
        pairs = sorted(self.env_options.items())
        made = "".join(f"-{name}={str(value).replace('/', '-')}" for name, value in pairs)
        kind = f"{self.network}{preset}{made}"
        name = f"{self.method}-{self.env.replace('/', '-')}{agents}-{kind}-{self.seed}"
        return self.out if self.out is not None else Path("runs") / name

    def to_json(self) -> dict[str, Any]:
        """Return plain values, without the sections of other methods; `from_json` inverts it."""
        content = asdict(self) | {"out": None if self.out is None else str(self.out)}
        idle = set(_SECTIONS) - set(self.sections)
        return {name: value for name, value in content.items() if name not in idle}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "TrainOptions":
        """Read what `to_json` wrote.

        Raises:
            UsageError: something is missing, unknown or of the wrong type.
        """
        return config_from_dict(cls, content)

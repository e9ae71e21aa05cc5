"""What `diffsurrogate train` can be told, a class for each family of methods, and its JSON form."""

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Literal, cast, get_args

import tyro

from diffsurrogate.algorithms.bppo import BPPOConfig
from diffsurrogate.algorithms.ppo import PPOConfig
from diffsurrogate.algorithms.shac import SHACConfig
from diffsurrogate.config import config_from_dict, differences, require_choice, require_range
from diffsurrogate.envs.env import MultiAgentVectorEnv
from diffsurrogate.envs.registry import make
from diffsurrogate.envs.waiting import USUAL, warn_of_hanging_envs
from diffsurrogate.errors import UsageError
from diffsurrogate.presets.recipe import (
    SEQUENTIAL_METHODS,
    AlgorithmConfig,
    Choice,
    Method,
    Network,
    Preset,
    Recipe,
    RunConfig,
)
from diffsurrogate.presets.recommend import recommended, usual_agents
from diffsurrogate.surrogates.config import SurrogateConfig
from diffsurrogate.training.checkpoint import FORMAT_VERSION, WRITTEN_BEFORE
from diffsurrogate.training.trainer import Trainer
from diffsurrogate.wrappers.sb3.config import SB3Config, SB3SACConfig, SB3TD3Config

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

    Raises:
        UsageError: a name has an option of its own.
    """
    own = _HAVE_THEIR_OWN | ({"max_steps": "give --max-steps instead"} if max_steps else {})
    for name in options:
        if name in own:
            raise UsageError(f"{name} cannot be given by --env-options; {own[name]}")


def check_format(version: object) -> None:
    """Refuse a configuration of another version.

    Raises:
        UsageError: it is of another one.
    """
    if version != FORMAT_VERSION:
        raise UsageError(
            f"the run's configuration is of format {version}, this version reads {FORMAT_VERSION}; "
            f"use the version that wrote it ({WRITTEN_BEFORE}), or train again"
        )


def made_with(agents: int | None, options: EnvOptions) -> EnvOptions:
    """Return what `make` is told: the number of agents, if it was given, and the rest."""
    return options | ({} if agents is None else {"n_agents": agents})


@dataclass(frozen=True, kw_only=True)
class MadeOptions:
    """Options of commands that make an env and train nothing on it."""

    env: tyro.conf.Positional[str]
    """Such as gymnasium/Pendulum-v1, vmas/navigation or paper/dispersion."""
    num_envs: int = 32
    """Copies of the env."""
    agents: int | None = None
    """Number of agents, where the env lets one choose."""
    env_options: EnvOptions = field(default_factory=dict)
    """What else the env is made with, a name and a value each."""
    seed: int = 0
    """Of the env and all else that is drawn."""
    device: str = "cpu"
    """cpu, cuda or cuda:<number>."""
    warn_after: float | None = USUAL
    """Seconds without an answer from the env until a warning names it; None for never."""

    def __post_init__(self) -> None:
        """Refuse what cannot work before anything is made."""
        check_env_options(self.env_options)

    def make(self, **more: Any) -> MultiAgentVectorEnv:
        """Make the env, with `more` options."""
        warn_of_hanging_envs(self.warn_after)
        made = made_with(usual_agents(self.env, self.agents), self.env_options)
        return make(
            self.env, num_envs=self.num_envs, seed=self.seed, device=self.device, **more, **made
        )


NOT_LEARNED_BY = frozenset(
    {"out", "resume", "threads", "progress", "film_steps", "profile", "warn_after", "log_to"}
)
"""Options that change nothing of what is learned and measured, only where and how it is shown."""
_NO_MATTER = NOT_LEARNED_BY | {"seed", "device", "checkpoint_every"}
FINAL_SEED = 2_000_003
"""Of the evaluation at the end; another than that of evaluations on the way."""


_HiddenPreset = tyro.conf.Suppress[tyro.conf.Fixed[Literal["default"]]]
"""Of methods that no paper's preset is for."""


@dataclass(frozen=True, kw_only=True)
class NamedOptions(Choice):
    """Options that the defaults of all others depend on; METHOD and ENV stand before them."""

    method: tyro.conf.Suppress[tyro.conf.Fixed[Method]]
    env: tyro.conf.Suppress[tyro.conf.Fixed[str]]


@dataclass(frozen=True, kw_only=True)
class _FirstOptions(NamedOptions):
    """Options that are set most often, for help to begin with."""

    seed: int = 0
    """Of the env, the weights, the noise and the minibatches."""
    out: Path | None = None
    """The run folder; None for a name below runs/ made of all these."""
    resume: bool = False
    """Continue the run in --out from its last checkpoint, with the configuration it has: nothing
    need be repeated, METHOD and ENV neither."""
    device: str = "cpu"
    """cpu, cuda or cuda:<number>; under torchrun cuda, of which each process has its own."""
    env_options: EnvOptions = field(default_factory=dict)
    """What else the env is made with, a name and a value each, such as --env-options
    continuous_actions False; the page of the env's source lists them (docs/envs)."""


@dataclass(frozen=True, kw_only=True)
class TrainOptions(RunConfig, _FirstOptions):
    """Options of every method."""

    time_limit: float | None = None
    """Wall-clock seconds after which to stop."""
    cpu_limit: float | None = None
    """CPU-seconds of training, without evaluations, after which to stop."""
    eval_steps: int | None = None
    """Length of an evaluation episode; None for the env's own time limit, or --max-steps where it
    tells none."""
    threads: int = 1
    """CPU threads; small networks are fastest with 1."""
    film_steps: int = 200
    """Steps of the GIF made at the end; 0 for none."""
    profile: int = 0
    """Updates to profile, after two to warm up; trace.json.gz in the run's folder can be opened on
    ui.perfetto.dev. 0 for none."""
    log_to: tuple[Literal["wandb", "mlflow"], ...] = ()
    """Where metrics go besides metrics.csv and TensorBoard's events: Weights & Biases (WANDB_MODE,
    WANDB_PROJECT and what else it reads), MLflow (MLFLOW_TRACKING_URI), or both."""
    warn_after: float | None = USUAL
    """Seconds without an answer from the env until a warning names it; None for never."""
    progress: bool = True
    """Show a progress bar; without a terminal, a line per evaluation."""
    section: ClassVar[str]
    """The field of the method's hyperparameters."""

    def __post_init__(self) -> None:
        """Refuse what cannot work before anything is written."""
        NamedOptions.__post_init__(self)
        RunConfig.__post_init__(self)
        require_range(self, "threads", low=1.0)
        require_range(self, "film_steps", "profile", "seed", low=0.0)
        check_env_options(self.env_options, max_steps=True)
        if self.eval_steps is not None:
            require_range(self, "eval_steps", low=1.0)
        for name in ("time_limit", "cpu_limit"):
            if getattr(self, name) is not None:
                require_range(self, name, low=0.0)

    @classmethod
    def recommended(
        cls,
        method: Method,
        env: str,
        agents: int | None = None,
        network: Network = "mlp",
        preset: Preset = "default",
    ) -> "TrainOptions":
        """Return the defaults for a method and an env; arguments and errors as `recommended`."""
        recipe = recommended(method, env, agents, network, preset)
        kind = _CLASSES[method]
        sections: dict[str, Any] = {kind.section: recipe.config}
        if recipe.surrogates is not None:
            sections["surrogates"] = recipe.surrogates
        named = {part.name: getattr(recipe, part.name) for part in fields(Choice)}
        return kind(**named, **vars(recipe.run), **sections)

    @property
    def recipe(self) -> Recipe:
        """What is trained, for Python."""
        return Recipe(
            **{part.name: getattr(self, part.name) for part in fields(Choice)},
            run=RunConfig(**{part.name: getattr(self, part.name) for part in fields(RunConfig)}),
            config=cast(AlgorithmConfig, getattr(self, self.section)),
            surrogates=getattr(self, "surrogates", None),
        )

    def make(self) -> tuple[Trainer, MultiAgentVectorEnv]:
        """Return the trainer and its env, as `Recipe.make`."""
        return self.recipe.make(seed=self.seed, device=self.device, **self.env_options)

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
        """Return plain values; `from_json` inverts it."""
        out = None if self.out is None else str(self.out)
        return {"format": FORMAT_VERSION, **asdict(self), "out": out}

    @staticmethod
    def from_json(content: dict[str, Any]) -> "TrainOptions":
        """Read what `to_json` wrote.

        Raises:
            UsageError: something is missing, unknown, of the wrong type or of another version.
        """
        content = dict(content)
        check_format(content.pop("format", 1))
        require_choice("method", content.get("method"), get_args(Method))
        return config_from_dict(_CLASSES[content["method"]], content)


@dataclass(frozen=True, kw_only=True)
class SHACOptions(TrainOptions):
    """Options of shac."""

    section = "shac"
    shac: SHACConfig


@dataclass(frozen=True, kw_only=True)
class LearnedOptions(SHACOptions):
    """Options of shac+ and shac++, which learn models beside the env."""

    surrogates: SurrogateConfig


@dataclass(frozen=True, kw_only=True)
class PPOOptions(TrainOptions):
    """Options of ppo."""

    section = "ppo"
    preset: Literal["default", "paper"] = "default"
    """Of all the defaults. default: what measured best. paper: the numbers of SHAC++'s paper."""
    ppo: PPOConfig


@dataclass(frozen=True, kw_only=True)
class MAPPOOptions(PPOOptions):
    """Options of mappo."""

    preset: _HiddenPreset = "default"


@dataclass(frozen=True, kw_only=True)
class IPPOOptions(MAPPOOptions):
    """Options of ippo."""

    network: Literal["mlp", "shared", "shared-id", "hyper-linear", "hyper-mlp", "dico"] = "mlp"
    """Of the policy and the value function. mlp: one for each agent. shared: one for every agent
    with the same weights. shared-id: shared, and told the number of the agent. hyper-linear,
    hyper-mlp: one for each agent, whose weights a hypernetwork generates from the agent's identity
    (HyperMARL). dico: shared plus one for each agent, in a given diversity; not for discrete
    actions."""


@dataclass(frozen=True, kw_only=True)
class BPPOOptions(TrainOptions):
    """Options of bppo, armappo and happo."""

    section = "bppo"
    network: tyro.conf.Suppress[tyro.conf.Fixed[Network]] = "mlp"
    preset: _HiddenPreset = "default"
    bppo: BPPOConfig


@dataclass(frozen=True, kw_only=True)
class SB3Options(TrainOptions):
    """Options of Stable-Baselines3's methods."""

    section = "sb3"
    network: Literal["mlp", "shared"] = "mlp"
    """mlp: one policy sees all agents and gives all actions. shared: one for every agent with the
    same weights, its own observation and reward."""
    preset: _HiddenPreset = "default"
    sb3: Any


@dataclass(frozen=True, kw_only=True)
class SB3PPOOptions(SB3Options):
    """Options of sb3-ppo."""

    sb3: SB3Config


@dataclass(frozen=True, kw_only=True)
class SB3SACOptions(SB3Options):
    """Options of sb3-sac."""

    sb3: SB3SACConfig


@dataclass(frozen=True, kw_only=True)
class SB3TD3Options(SB3Options):
    """Options of sb3-td3."""

    sb3: SB3TD3Config


_CLASSES: dict[object, type[TrainOptions]] = {
    "shac": SHACOptions,
    "shac+": LearnedOptions,
    "shac++": LearnedOptions,
    "ppo": PPOOptions,
    "ippo": IPPOOptions,
    "mappo": MAPPOOptions,
    "sb3-ppo": SB3PPOOptions,
    "sb3-sac": SB3SACOptions,
    "sb3-td3": SB3TD3Options,
    **dict.fromkeys(SEQUENTIAL_METHODS, BPPOOptions),
}


def what_differs(config: dict[str, Any]) -> tuple[str, ...]:
    """Return which settings of a run, as it wrote them, are not the recommended ones."""
    had = TrainOptions.from_json(config)
    usual = TrainOptions.recommended(had.method, had.env, had.agents, had.network, had.preset)
    found = differences(usual.to_json() | {"preset": "default"}, had.to_json())
    return tuple(f"{name}={briefly(now)}" for name, _, now in found if name not in _NO_MATTER)


def briefly(value: object) -> str:
    """Return a value as text, a float with four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)

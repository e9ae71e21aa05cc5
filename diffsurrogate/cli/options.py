"""What `diffsurrogate train` can be told, and its JSON form."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from diffsurrogate.algorithms.shac_config import SHACConfig
from diffsurrogate.configuration import config_from_dict, require_range
from diffsurrogate.surrogate_config import SurrogateConfig

Method = Literal["shac", "shac+", "shac++"]
Network = Literal["mlp", "transformer"]
FINAL_SEED = 2_000_003
"""Of the evaluation at the end; another than that of evaluations on the way."""


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Train a policy, and leave a run folder with checkpoints, metrics, a curve and a GIF.

    Defaults depend on METHOD, ENV, --agents and --network; help after these shows those in force.
    """

    method: tyro.conf.Positional[Method]
    """shac: the simulator's own gradients. shac+: its dynamics and a learned reward. shac++:
    everything learned."""
    env: tyro.conf.Positional[str]
    """Such as paper/dispersion, vmas/navigation or diffsurrogate/cartpole-swingup."""
    num_envs: int = 256
    """Copies of the env that are stepped together."""
    agents: int | None = None
    """Number of agents, where the env lets one choose."""
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
    """mlp, or a Transformer over agents as the policy, which knows no number or order of them."""
    shac: Annotated[SHACConfig, tyro.conf.arg(name="shac")] = field(default_factory=SHACConfig)
    surrogates: SurrogateConfig = field(default_factory=SurrogateConfig)

    def __post_init__(self) -> None:
        """Refuse what cannot work before anything is written."""
        require_range(self, "num_envs", "total_steps", "eval_every", "eval_envs", low=1.0)
        require_range(self, "checkpoint_every", "threads", low=1.0)
        require_range(self, "film_steps", "seed", low=0.0)
        for name in ("agents", "max_steps", "eval_steps"):
            if getattr(self, name) is not None:
                require_range(self, name, low=1.0)
        for name in ("time_limit", "cpu_limit"):
            if getattr(self, name) is not None:
                require_range(self, name, low=0.0)

    @property
    def folder(self) -> Path:
        """The run folder."""
        agents = "" if self.agents is None else f"-{self.agents}"
        name = f"{self.method}-{self.env.replace('/', '-')}{agents}-{self.network}-{self.seed}"
        return self.out if self.out is not None else Path("runs") / name

    def to_json(self) -> dict[str, Any]:
        """Return plain values; `from_json` is the inverse."""
        return asdict(self) | {"out": None if self.out is None else str(self.out)}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "TrainOptions":
        """Read what `to_json` wrote.

        Raises:
            UsageError: something is missing, unknown or of the wrong type.
        """
        return config_from_dict(cls, content)

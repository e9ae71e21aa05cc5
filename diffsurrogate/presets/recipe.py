"""A recipe: all that decides what a method learns on an env, and how to make both from it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import gymnasium
import torch

from diffsurrogate.algorithms.bppo import ARMAPPO, BPPO, HAPPO, BPPOConfig
from diffsurrogate.algorithms.ppo import IPPO, MAPPO, PPO, PPOConfig
from diffsurrogate.algorithms.shac import SHAC, SHACConfig
from diffsurrogate.config import require_choices, require_range
from diffsurrogate.distributed import rank_seed, world_size
from diffsurrogate.envs.env import MultiAgentVectorEnv
from diffsurrogate.envs.registry import make
from diffsurrogate.errors import UsageError
from diffsurrogate.surrogates.config import SurrogateConfig
from diffsurrogate.training.trainer import Trainer
from diffsurrogate.wrappers.learned import LearnedDiffWrapper
from diffsurrogate.wrappers.sb3.config import SB3Config, SB3SACConfig, SB3TD3Config

if TYPE_CHECKING:  # an extra
    from diffsurrogate.wrappers.sb3.trainer import SB3Trainer

Method = Literal[
    "shac",
    "shac+",
    "shac++",
    "ppo",
    "ippo",
    "mappo",
    "bppo",
    "armappo",
    "happo",
    "sb3-ppo",
    "sb3-sac",
    "sb3-td3",
]
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
Preset = Literal["default", "paper", "shac", "ahac", "sapo"]
SEQUENTIAL_METHODS = ("bppo", "armappo", "happo")
"""Methods whose agents learn apart, each with a policy of its own."""
SB3_METHODS = ("sb3-ppo", "sb3-sac", "sb3-td3")
"""Methods of Stable-Baselines3."""
_TRAINERS: dict[Method, type[SHAC | PPO]] = {
    "shac": SHAC,
    "shac+": SHAC,
    "shac++": SHAC,
    "ppo": PPO,
    "ippo": IPPO,
    "mappo": MAPPO,
    "bppo": BPPO,
    "armappo": ARMAPPO,
    "happo": HAPPO,
}
_ROBOTS = ("mujoco", "mamujoco", "mjx")
_EXTERNAL = (*_ROBOTS, "gymnasium", "pettingzoo", "mpe2", "jaxmarl")


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What is trained on what: all that recommended settings depend on."""

    method: Method
    """shac: the simulator's own gradients. shac+: its dynamics and a learned reward. shac++:
    everything learned. The others need no gradients. ppo: one controller of all agents. ippo: every
    agent learns from its own observation and reward. mappo: agents act on their own observations,
    a critic sees all. bppo: mappo whose agents act one after another, seeing the actions before
    their own, and learn the other way round, with feedback from those after them. armappo: the same
    without feedback, all at once. happo: mappo whose agents learn in turn. sb3-ppo, sb3-sac,
    sb3-td3: Stable-Baselines3's PPO, SAC and TD3, an extra; the last two learn from a replay, and
    for continuous actions only."""
    env: str
    """Such as paper/dispersion, vmas/navigation, gymnasium/CartPole-v1 or
    diffsurrogate/cartpole-swingup."""
    agents: int | None = None
    """Number of agents, where the env lets one choose."""
    network: Network = "mlp"
    """Of the policy. mlp: the method's own, one over all agents together; for ippo and mappo one
    for each agent. shared: one for every agent with the same weights, which sees the mean of all;
    for ippo, mappo and sb3-… its own features only. shared-id: shared, and told the number of the
    agent. transformer: attention over agents, which knows no number or order of them; not for ippo.
    transformer-id: the same, and told their numbers. hyper-linear, hyper-mlp: one for each agent,
    whose weights a hypernetwork generates from the agent's identity (HyperMARL); of ippo and mappo
    the critic too. dico: shared plus one for each agent, in a given diversity; not for discrete
    actions. sb3-… has mlp and shared only."""
    preset: Preset = "default"
    """Of all the defaults. default: what measured best. paper: the numbers of SHAC++ (ECAI 2025),
    for ppo, shac, shac+ and shac++. shac, ahac, sapo: those of SHAC's own paper (ICLR 2022) and of
    two that followed it, AHAC with an adaptive horizon (ICML 2024) and SAPO with an entropy bonus
    (ICLR 2025), for shac, shac+ and shac++."""

    def __post_init__(self) -> None:
        """Refuse networks that the method cannot use."""
        require_choices(self)
        if self.agents is not None:
            require_range(self, "agents", low=1.0)
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
        if self.network not in ("mlp", "shared") and self.method in SB3_METHODS:
            raise UsageError(
                f"{self.method} has no {self.network} network; use --network mlp or shared, or "
                "another method"
            )
        if self.network == "dico" and self.agents == 1:
            raise UsageError(
                "--network dico sets how differently agents act, but there is 1; give --agents, or "
                "use --network mlp"
            )

    @property
    def library(self) -> str:
        """What stands before the slash of the env's id."""
        return self.env.partition("/")[0]

    @property
    def external(self) -> bool:
        """Of another library: steps that may be slow, rewards of any size, ends by state."""
        return self.library in _EXTERNAL

    @property
    def articulated(self) -> bool:
        """Whether the env is of bodies with joints, as `MultiAgentVectorEnv.articulated`."""
        known = gymnasium.registry.get(self.env.removeprefix("gymnasium/"))
        return self.robot or "envs.mujoco" in str(known and known.entry_point)

    @property
    def robot(self) -> bool:
        """One of MuJoCo's, but for those that are made by Gymnasium's ids."""
        return self.library in _ROBOTS


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """How long a method trains, on how many copies, and how often it is evaluated."""

    num_envs: int = 256
    """Copies of the env that are stepped together, by all processes."""
    total_steps: int = 5_000_000
    """Env steps to take in all, counted over the copies."""
    max_steps: int | None = None
    """Time limit of training episodes, in steps; None for the env's own."""
    stop_at: float | None = 0.95
    """Normalised return at which to stop; envs without a known maximum never do."""
    eval_every: int = 20
    """Updates between evaluations."""
    eval_envs: int = 512
    """Episodes of an evaluation."""
    checkpoint_every: int = 25
    """Updates between checkpoints."""

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        require_range(self, "num_envs", "total_steps", "eval_every", "eval_envs", low=1.0)
        require_range(self, "checkpoint_every", low=1.0)
        if self.max_steps is not None:
            require_range(self, "max_steps", low=1.0)


AlgorithmConfig = SHACConfig | PPOConfig | BPPOConfig | SB3Config | SB3SACConfig | SB3TD3Config


@dataclass(frozen=True, kw_only=True)
class Recipe(Choice):
    """What `diffsurrogate train` trains an env with, for Python."""

    run: RunConfig
    config: AlgorithmConfig
    """Hyperparameters of the method."""
    surrogates: SurrogateConfig | None = None
    """Models of the env that shac+ and shac++ learn; None for the other methods."""

    def make(self, *, seed: int = 0, **options: Any) -> tuple[Trainer, MultiAgentVectorEnv]:
        """Return a trainer and its env; arguments as of `make_env`.

        Example:
            >>> from diffsurrogate import recommended
            >>> recipe = recommended("shac", "diffsurrogate/cartpole-swingup")
            >>> agent, env = recipe.make(seed=1)
            >>> agent.learn(recipe.run.total_steps)  # doctest: +SKIP
        """
        env = self.make_env(seed=seed, **options)
        return self.make_agent(env, seed=seed), env

    def make_env(
        self, *, seed: int = 0, device: torch.device | str = "cpu", **options: Any
    ) -> MultiAgentVectorEnv:
        """Make the env to train on, wrapped as the method needs it.

        Args:
            seed: of the env and of the models beside it.
            device: where the tensors live.
            options: what else `make` takes.

        Raises:
            UsageError: the env or an option is not known, or it has not what the method needs; or
                several processes cannot share the copies equally.
        """
        own = {"n_agents": self.agents, "max_steps": self.run.max_steps}
        num_envs, ranks = self.run.num_envs, world_size()
        if num_envs % ranks:
            raise UsageError(
                f"num_envs is {num_envs}, which {ranks} processes cannot share equally; give a "
                f"multiple of {ranks}"
            )
        env = make(
            self.env,
            num_envs=num_envs // ranks,
            seed=rank_seed(seed),
            device=device,
            differentiable=self.method == "shac",
            **{name: value for name, value in own.items() if value is not None},
            **options,
        )
        if self.surrogates is None:
            return env
        dynamics = self.method == "shac++"
        return LearnedDiffWrapper(env, dynamics=dynamics, config=self.surrogates, seed=seed)

    def make_agent(self, env: MultiAgentVectorEnv, *, seed: int = 0) -> Trainer:
        """Make the trainer.

        Args:
            env: what `make_env` gave.
            seed: of weights, noise and minibatches.

        Raises:
            UsageError: the env has not what the method needs, or Stable-Baselines3 is missing.
        """
        if self.method in SB3_METHODS:
            return sb3_trainer(self.method, env, self.config, seed=seed)
        return _TRAINERS[self.method](env, self.config, seed=seed)  # type: ignore[arg-type]


def sb3_trainer(
    method: Method, env: MultiAgentVectorEnv, config: Any, *, seed: int = 0
) -> "SB3Trainer":
    """Make the trainer of a method of Stable-Baselines3.

    Raises:
        UsageError: the env has not what the method needs, or Stable-Baselines3 is missing.
    """
    from diffsurrogate.wrappers.sb3.off_policy import SB3SAC, SB3TD3
    from diffsurrogate.wrappers.sb3.on_policy import SB3PPO

    kinds: dict[Method, Callable[..., SB3Trainer]] = {
        "sb3-ppo": SB3PPO,
        "sb3-sac": SB3SAC,
        "sb3-td3": SB3TD3,
    }
    return kinds[method](env, config, seed=seed)

"""What two processes do together, each with its own envs: by `in_ranks`, or as under torchrun."""

import copy
import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
from torch.distributed.launcher import LaunchConfig, elastic_launch
from toys.masked import MaskedReach
from toys.reach import NET, Reach, config, learned
from toys.recurrent import settings as recurrent
from toys.spring import Spring, small

from diffsurrogate.__main__ import main
from diffsurrogate.actor_critic.actor import ActorConfig, NoisyPolicy
from diffsurrogate.actor_critic.critic import CriticConfig
from diffsurrogate.actor_critic.exploration import NoiseConfig
from diffsurrogate.algorithms.bppo import BPPO
from diffsurrogate.algorithms.clipped_surrogate import ClipConfig, clipped_epochs, policy_batch
from diffsurrogate.algorithms.max_entropy import EntropyConfig
from diffsurrogate.algorithms.pathwise import PathwiseConfig
from diffsurrogate.algorithms.policy_updates import GradientUpdateConfig, HybridUpdateConfig
from diffsurrogate.algorithms.ppo import IPPO, MAPPO, PPO, PPOConfig
from diffsurrogate.algorithms.shac import SHAC, SHACConfig
from diffsurrogate.algorithms.value_learning import ValueLearningConfig
from diffsurrogate.envs.env import MultiAgentVectorEnv
from diffsurrogate.envs.torch_env import TorchState
from diffsurrogate.envs.window import Window
from diffsurrogate.errors import UsageError
from diffsurrogate.surrogates.fitting import Surrogates
from diffsurrogate.training.trainer import Trainer
from diffsurrogate.wrappers.learned import LearnedDiffWrapper

RANKS = 2
ALL_ROWS = ClipConfig(epochs=1, batch_size=1000)


class Breaking(Reach):
    """Gives NaN at some steps, in some copies."""

    def __init__(self, plan: dict[int, slice]) -> None:
        super().__init__(differentiable=False)
        self.plan, self.taken = plan, 0

    def reward(self, state: TorchState, action: Tensor, next_state: TorchState) -> Tensor:
        reward = super().reward(state, action, next_state).clone()
        self.taken += 1
        reward[self.plan.get(self.taken, slice(0))] = torch.nan
        return reward


class Mortal(Reach):
    """Agents far from 0 are dead, on the second rank alone; on the first all live, without mask."""

    @property
    def alive_mask(self) -> Tensor | None:
        rank = distributed.get_rank() if distributed.is_initialized() else 0
        return self.current_obs[..., 0].detach().abs() < 0.5 if rank else None


def learned_spring(dynamics: str = "step") -> MultiAgentVectorEnv:
    surrogates = replace(small(dynamics), termination=True)
    return LearnedDiffWrapper(Spring(max_steps=9), config=surrogates)


def hybrid(**changes: Any) -> SHACConfig:
    """Minibatches of 17, with a threshold of the KL divergence that is sometimes reached."""
    clip = ClipConfig(epochs=3, batch_size=17, lr=3e-2, target_kl=0.03, advantage="shared")
    gradient = PathwiseConfig(segment_length=2, lam=0.9)
    update = HybridUpdateConfig(ppo=clip, gradient=gradient, weight=0.5)
    start: dict[str, Any] = {"noise": NoiseConfig(), "scale_rewards": True, "ema_decay": 0.5}
    return config(update=update, **(start | changes))


def clipped(kind: type[PPO], **changes: Any) -> PPOConfig:
    start = kind.default_config()
    clip = replace(start.clip, epochs=2, batch_size=13, target_kl=0.02)
    return replace(start, horizon=4, clip=clip, **changes)


def adaptive() -> SHACConfig:
    return config(update=GradientUpdateConfig(gradient=PathwiseConfig(max_growth=1.0)))


def soft() -> SHACConfig:
    actor = ActorConfig(net=NET, learn_std=True)
    critic = CriticConfig(net=NET, ensemble=2)
    return config(entropy=EntropyConfig(temperature=1.0), actor=actor, critic=critic)


def on_second(plan: dict[int, slice]) -> Breaking:
    return Breaking(plan if distributed.is_initialized() and distributed.get_rank() else {})


TRAINED: dict[str, Callable[[], Trainer]] = {
    "shac": lambda: SHAC(Reach(), adaptive()),
    "sapo": lambda: SHAC(Reach(), soft()),
    "shac++": lambda: SHAC(learned_spring(), config(horizon=5)),
    "shac++, trajectories": lambda: SHAC(learned_spring("awm"), config(horizon=5)),
    "hybrid": lambda: SHAC(learned(Mortal(differentiable=False)), hybrid()),
    "all actions": lambda: SHAC(
        LearnedDiffWrapper(MaskedReach(), config=small()), config(noise=NoiseConfig(kind="auto"))
    ),
    "ppo": lambda: PPO(Reach(), clipped(PPO)),
    "ippo": lambda: IPPO(Mortal(), clipped(IPPO)),
    "mappo, recurrent": lambda: MAPPO(Reach(), recurrent(MAPPO)),
    "broken copies": lambda: SHAC(learned(on_second({6: slice(0, 5), 7: slice(6, 7)})), hybrid()),
    "a broken rank": lambda: IPPO(on_second({5: slice(None), 9: slice(2)}), clipped(IPPO)),
}
"""Trainers by what is particular about them; the last two break on one rank only."""
UPDATES = dict.fromkeys(TRAINED, 2) | {"hybrid": 4, "broken copies": 4, "a broken rank": 4}
"""Of each, the first half before the checkpoint."""


def in_ranks(work: Callable[[Path], None], folder: Path) -> None:
    """Call `work` with `folder` in each of the processes of a group.

    Raises:
        ProcessRaisedException: one has raised.
    """
    _import_once()
    start = torch.multiprocessing.start_processes
    group = f"file://{folder / f'group{time.monotonic_ns()}'}"
    start(_join, (group, work, folder), nprocs=RANKS, start_method="forkserver")


def under_torchrun(arguments: list[str], folder: Path) -> None:
    """Run a command of diffsurrogate in processes of torchrun's agent.

    In `folder` each leaves what it says and, in `<rank>.pid`, its number.

    Raises:
        ChildFailedError: one has failed.
    """
    _import_once()
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=RANKS,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        start_method="forkserver",
        logs_specs=DefaultLogsSpecs(log_dir=str(folder), redirects=Std.ALL),
    )
    elastic_launch(config, _command)(arguments, folder)


def _import_once() -> None:
    context = torch.multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "torch._dynamo"])


def _command(arguments: list[str], folder: Path) -> None:
    torch.set_num_threads(1)
    (folder / f"{os.environ['RANK']}.pid").write_text(str(os.getpid()))
    sys.exit(main(arguments))


def _join(number: int, group: str, work: Callable[[Path], None], folder: Path) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    distributed.init_process_group("gloo", init_method=group, rank=number, world_size=RANKS)
    try:
        work(folder)
    except Exception:
        traceback.print_exc()
        raise
    distributed.destroy_process_group()


def command_line(arguments: list[str], _: Path) -> None:
    """Run a command of diffsurrogate."""
    assert main(arguments) == 0


def everything(folder: Path) -> None:
    """Do all that tests read, and leave it in a file of each rank."""
    rank, found = distributed.get_rank(), {}
    for name, make in TRAINED.items():
        found[name] = trained(make, UPDATES[name], folder / f"{name}.pt")
    found |= {f"{kind} gradient": policy_gradient(kind) for kind in POLICIES}
    found |= {f"{kind} gradient": model_gradients(kind) for kind in ("step", "awm")}
    found["ppo gradient"] = clipped_gradient()
    found["refused"] = [
        refusal(lambda: list(PPO(Reach(), clipped(PPO), seed=rank).iterations(1))),
        refusal(lambda: BPPO(Reach(), replace(BPPO.default_config(), horizon=4))),
        refusal(lambda: list(PPO(Reach(num_envs=3 + rank), clipped(PPO)).iterations(1))),
    ]
    found["stopped"] = stopped_by_the_second()
    found["uneven episodes"] = uneven_episodes()
    torch.save(found, folder / f"{rank}.pt")


def trained(make: Callable[[], Trainer], updates: int, path: Path) -> dict[str, Any]:
    """Train through, and once more from a checkpoint half way."""
    whole, env = make(), make().env
    iterations = whole.iterations(updates)
    metrics = [next(iterations) for _ in range(updates // 2)]
    whole.save(path)
    toys = [getattr(one, "env", one) for one in (whole.env, env)]
    if isinstance(toys[0], Breaking):
        toys[1].taken = toys[0].taken  # which it does not save
    metrics += list(iterations)
    again = type(whole).load(path, env)
    list(again.iterations(updates))
    states = {"state": whole.state_dict(), "again": again.state_dict()}
    return states | {"metrics": metrics, "env_steps": whole.env_steps}


POLICIES = {
    "pathwise": GradientUpdateConfig(),
    "segments": GradientUpdateConfig(gradient=PathwiseConfig(segment_length=2, lam=0.9)),
    "hybrid": HybridUpdateConfig(ppo=ALL_ROWS, weight=0.5),
}


def policy_trainer(kind: str, num_envs: int) -> SHAC:
    value = ValueLearningConfig(minibatches=1, batch_size=1000, capacity=0)
    white = NoiseConfig(kind="white")
    settings = config(update=POLICIES[kind], value=value, noise=white)
    return SHAC(learned(Reach(num_envs=num_envs, differentiable=False)), settings)


def policy_gradient(kind: str) -> dict[str, Any]:
    """Take one step of policy and critic on a window of each rank."""
    agent = policy_trainer(kind, 7)
    list(agent.iterations(3))
    state = copy.deepcopy(agent.state_dict())
    noise = agent.noise.draw(agent.config.horizon)
    with agent.env.restarting_broken():
        window = agent.policy_update.collect(NoisyPolicy(agent.actor, noise), len(noise))
    target = agent.value.targets(window)
    given = {"window": vars(window.detach()), "noise": noise, "target": target, "state": state}
    return given | {"gradients": policy_step(agent, window, noise, target)}


def policy_step(agent: SHAC, window: Window, noise: Tensor, target: Tensor) -> list[Tensor]:
    agent.policy_update.step(window, noise, None, target)
    agent.value.fit(window.detach(), target)
    return gradients(agent.actor) + gradients(agent.critic.net)


class Given:
    """A replay buffer from which the same minibatch is always drawn."""

    def __init__(self, batch: dict[str, Tensor]) -> None:
        self.batch = batch

    def sample(self, *_: Any, **__: Any) -> dict[str, Tensor]:
        return self.batch


def model_gradients(dynamics: str) -> dict[str, Any]:
    """Take one step of the models on a minibatch of each rank, with events on the first alone."""
    agent = SHAC(learned_spring(dynamics), config(horizon=5))
    list(agent.iterations(3))
    models: Surrogates = agent.env.surrogates
    models._learned_reward.events.seen += 20
    state = copy.deepcopy(dict(models.state_dict()))
    models.load_state_dict(state)
    counts = {"terminations_seen": models.terminations_seen, "steps_seen": models.steps_seen}
    batches = {
        name: getattr(models, f"{name}_buffer").sample(11, models.generator)
        for name in ("transition", "dynamics", "termination")
    }
    if distributed.get_rank() == 0:
        batches["transition"]["reward"][:3] *= 1e4
    given = {"state": state, "counts": counts, "batches": batches}
    return given | {"gradients": model_step(models, batches)}


def model_step(models: Surrogates, batches: dict[str, dict[str, Tensor]]) -> list[Tensor]:
    for name, batch in batches.items():
        setattr(models, f"{name}_buffer", Given(batch))
    models.train_models(1)
    return [gradient for module in models._trained().values() for gradient in gradients(module)]


def ippo(num_envs: int) -> IPPO:
    return IPPO(Mortal(num_envs=num_envs), replace(IPPO.default_config(), horizon=4))


def clipped_gradient() -> dict[str, Any]:
    """Take one clipped step on a window of each rank, in which agents die."""
    agent = ippo(7)
    list(agent.iterations(2))
    noise = agent.noise.draw(4)
    window = agent.as_on_all_ranks(agent.env.collect(NoisyPolicy(agent.actor, noise), 4))
    advantage = torch.randn(window.reward.shape, generator=agent.noise_rng)
    advantage[..., 2] *= 1e-2  # whose unit becomes that of all
    state = copy.deepcopy(agent.actor.state_dict())
    given = {"window": vars(window), "advantage": advantage, "state": state}
    return given | {"gradients": clipped_step(agent, window, advantage)}


def clipped_step(agent: IPPO, window: Window, advantage: Tensor) -> list[Tensor]:
    clipped_epochs(
        agent.actor,
        policy_batch(window, agent.actor, advantage),
        config=replace(agent.config.clip, epochs=1, batch_size=1000, entropy_weight=0.1),
        generator=agent.minibatch_rng,
        optimiser=agent.actor_optimiser,
    )
    return gradients(agent.actor)


def gradients(module: torch.nn.Module) -> list[Tensor]:
    return [weight.grad for weight in module.parameters() if weight.grad is not None]


def refusal(run: Callable[[], Any]) -> str:
    try:
        run()
    except UsageError as error:
        return str(error)
    return "nothing"


def stopped_by_the_second() -> int:
    """Return the updates after which a callback of the second rank has stopped both."""

    def stop(agent: Trainer, _: Any) -> bool:
        return not (distributed.get_rank() == 1 and agent.iteration == 2)

    return PPO(Reach(), clipped(PPO)).learn(10_000, callback=stop).iteration


def uneven_episodes() -> dict[str, float]:
    """Return the metrics of 8 steps in episodes of 2 on the first rank and of 4 on the second."""
    env = Reach(differentiable=False)
    env.max_steps = 2 if distributed.get_rank() == 0 else 4
    settings = replace(clipped(PPO), horizon=8, randomise_episode_phase=False)
    (metrics,) = PPO(env, settings).iterations(1)
    return metrics

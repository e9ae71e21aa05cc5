"""Tiny runs of every method and source of envs, in forked processes, and how two are compared."""

import csv
import importlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from diffsurrogate.__main__ import main as diffsurrogate
from diffsurrogate.training.checkpoint import load_checkpoint
from diffsurrogate.training.run_folder import RunFolder
from diffsurrogate.training.trainer import Trainer

UPDATES, HORIZON, ENVS = 6, 3, 4
RUN = [
    *("--num-envs", f"{ENVS}", "--eval-envs", "2", "--eval-steps", "4", "--eval-every", "2"),
    *("--checkpoint-every", "2", "--film-steps", "0", "--no-progress", "--stop-at", "None"),
]
SHAC = [*("--shac.horizon", "3", "--shac.value.minibatches", "2", "--shac.value.batch-size", "16")]
MODELS = [*SHAC, "--surrogates.fit.minibatches", "2", "--surrogates.fit.batch-size", "16"]
PPO = ["--ppo.horizon", "3", "--ppo.clip.batch-size", "7", "--ppo.clip.epochs", "2"]
BPPO = ["--bppo.horizon", "3", "--bppo.clip.batch-size", "7", "--bppo.clip.epochs", "2"]
SB3 = ["--sb3.horizon", "3", "--sb3.batch-size", "6", "--sb3.epochs", "2"]
FINITE = ["--env-options", "continuous_actions", "False"]
CASES = {
    "shac diffsurrogate": ["shac", "diffsurrogate/cartpole-swingup", *SHAC],
    "shac+ vmas": ["shac+", "vmas/navigation", "--agents", "2", *MODELS],
    "shac++ paper": ["shac++", "paper/dispersion", "--agents", "2", *MODELS],
    "shac++ gymnasium": ["shac++", "gymnasium/Pendulum-v1", *MODELS],
    "shac++ games": ["shac++", "games/climbing", *MODELS],
    "ppo mujoco": ["ppo", "mujoco/Hopper-v5", *PPO],
    "ppo gymnasium": ["ppo", "gymnasium/CartPole-v1", *PPO],
    "ippo mpe2": ["ippo", "mpe2/simple_spread_v3", *PPO],
    "mappo mamujoco": ["mappo", "mamujoco/HalfCheetah-2x3", *PPO],
    "mappo jaxmarl": ["mappo", "jaxmarl/MPE_simple_spread_v3", *PPO],
    "bppo games": ["bppo", "games/climbing", *BPPO],
    "armappo vmas": ["armappo", "vmas/dispersion", "--agents", "2", *FINITE, *BPPO],
    "happo mamujoco": ["happo", "mamujoco/Swimmer-2x1", *BPPO],
    "sb3-ppo paper": ["sb3-ppo", "paper/dispersion", "--agents", "2", *SB3],
    "sb3-ppo gymnasium": ["sb3-ppo", "gymnasium/CartPole-v1", *SB3],
}
FILES_OF = "ppo diffsurrogate"
CASES[FILES_OF] = ["ppo", "diffsurrogate/cartpole-swingup", *PPO]
ADAPTERS = ("vmas.adapter", "pettingzoo.ids", "mujoco.mamujoco", "gymnasium.ids", "sb3.on_policy")
"""Imported before anything is forked; JAX must not be."""
Fault = Callable[[], None]
"""Prepares a forked process, before it runs the command."""


# --- processes ------------------------------------------------------------------------------------


def start(arguments: list[str], log: Path, fault: Fault | None = None) -> int:
    """Fork a process that runs the command line; return its number."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(stream, 1)
        os.dup2(stream, 2)
        if fault is not None:
            fault()
        status = diffsurrogate(arguments)
    except BaseException:
        importlib.import_module("traceback").print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


def wait(child: int) -> int:
    """Return the exit status, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def run(arguments: list[str], log: Path, fault: Fault | None = None) -> int:
    """Run a command to its end."""
    return wait(start(arguments, log, fault))


def training(name: str, out: Path, updates: int = UPDATES) -> list[str]:
    """Return the command that starts a run."""
    steps = ["--total-steps", f"{updates * ENVS * HORIZON}"]
    return ["train", *CASES[name], *RUN, *steps, "--out", f"{out}"]


def resuming(out: Path, updates: int = UPDATES) -> list[str]:
    steps = ["--total-steps", f"{updates * ENVS * HORIZON}"]
    return ["train", "--resume", "--no-progress", *steps, "--out", f"{out}"]


# --- what is compared -----------------------------------------------------------------------------


def leaves(state: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield everything in a state but clocks, with its name."""
    if isinstance(state, dict):
        for name, value in state.items():
            if "seconds" not in str(name):
                yield from leaves(value, f"{path}.{name}")
    elif isinstance(state, list | tuple):
        for index, value in enumerate(state):
            yield from leaves(value, f"{path}[{index}]")
    elif isinstance(state, torch.Tensor):
        yield path, (tuple(state.shape), state.dtype, state.numpy().tobytes())
    else:
        yield path, repr(state)


def table(file: Path) -> list[list[str]]:
    """Return the cells of `metrics.csv` without columns of clocks."""
    with file.open(newline="") as stream:
        header, *rows = csv.reader(stream)
    kept = [index for index, name in enumerate(header) if "seconds" not in name]
    return [[row[index] for index in kept] for row in (header, *rows)]


def differs(one: Path, other: Path) -> str:
    """Return what is not the same in two finished runs; "" for nothing."""
    for name in ("last", "best"):
        files = [out / "checkpoints" / f"{name}.pt" for out in (one, other)]
        states = [dict(leaves(load_checkpoint(file))) for file in files]
        if states[0] != states[1]:
            odd = [key for key in states[0] if states[0][key] != states[1].get(key)]
            return f"{name}.pt: {odd[:3]}"
    if table(one / "metrics.csv") != table(other / "metrics.csv"):
        return "metrics.csv"
    summaries = [dict(leaves(RunFolder(out).summary())) for out in (one, other)]
    return "" if summaries[0] == summaries[1] else "summary.json"


# --- runs that nothing happened to ---------------------------------------------------------------


def stop_at(update: int) -> Fault:
    """End as by Ctrl-C after an update, with a whole checkpoint."""

    def fault() -> None:
        real = Trainer.iterations

        def iterations(agent: Trainer, total: int) -> Iterator[dict[str, float]]:
            for metrics in real(agent, total):
                if agent.iteration == update:
                    signal.raise_signal(signal.SIGINT)
                yield metrics

        Trainer.iterations = iterations  # type: ignore[method-assign, assignment]

    return fault


class Whole:
    """Runs that nothing happened to, each trained once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seconds: dict[str, float] = {}

    def unbroken(self, name: str) -> Path:
        """Return the folder of a run in one piece."""
        out = self.folder / name.replace(" ", "-")
        if not out.exists():
            began = time.monotonic()
            self._check(run(training(name, out), out.with_suffix(".log")), out)
            self.seconds[name] = time.monotonic() - began
        return out

    def stopped(self, name: str, update: int) -> Path:
        """Return the folder of a run that Ctrl-C ended after an update, and that went on.

        What a kill comes to where the env cannot save its state: new episodes begin there.
        """
        out = self.folder / f"{name.replace(' ', '-')}-{update}"
        if not out.exists():
            log = out.with_suffix(".log")
            if run(training(name, out), log, stop_at(update)) != 130:
                raise RuntimeError(log.read_text())
            self._check(run(resuming(out), log), out)
        return out

    @staticmethod
    def _check(status: int, out: Path) -> None:
        if status != 0:
            raise RuntimeError(out.with_suffix(".log").read_text())


def saves_state(out: Path) -> bool:
    """Return whether the env of a run can save its state."""
    return load_checkpoint(out / "checkpoints" / "last.pt")["agent"]["env"] is not None

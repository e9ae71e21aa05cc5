"""Ctrl-C ends a training that hangs, with its workers, in one line."""

import os
import signal
import threading
import time
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, AutoresetMode

from diffsurrogate.__main__ import main
from diffsurrogate.envs import registry
from diffsurrogate.envs.registry import as_multi_agent, register_env
from diffsurrogate.envs.waiting import env_hangs, warn_of_hanging_envs

STEPS = 10
"""Steps of env 0 before it hangs."""


class Hanging(gymnasium.Env):
    """Sleeps for ever in a step, once it has said so by a file."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2,))
    action_space = gymnasium.spaces.Box(-1, 1, (1,))

    def __init__(self, mark: Path | None):
        self.mark, self.steps = mark, 0

    def reset(self, *, seed=None, options=None):
        self.left = 8
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.steps += 1
        self.left -= 1
        if self.mark is not None and self.steps > STEPS:
            self.mark.touch()
            while True:
                time.sleep(0.01)
        return np.zeros(2, np.float32), 0.0, False, self.left == 0, {}


@pytest.fixture
def hanging(tmp_path, monkeypatch):
    """Register hanging/plain and hanging/workers; return the file they make, and all raw envs."""
    monkeypatch.setattr(registry, "_FACTORIES", dict(registry._FACTORIES))
    mark, made = tmp_path / "mark", []

    def make(name, *, num_envs, **options):
        marks = [mark] + [None] * (num_envs - 1)
        if num_envs == 1:  # to evaluate on
            marks = [None]
        if name == "workers":
            factories = [lambda one=one: Hanging(one) for one in marks]
            made.append(AsyncVectorEnv(factories, autoreset_mode=AutoresetMode.SAME_STEP))
            return as_multi_agent(made[-1], max_steps=8)
        each = iter(marks)
        return as_multi_agent(lambda: Hanging(next(each)), num_envs=num_envs, max_steps=8)

    register_env("hanging", make)
    yield mark, made
    warn_of_hanging_envs()


def when(ready, presses):
    """Press Ctrl-C so often, once something is so."""

    def wait():
        while not ready():
            time.sleep(0.01)
        for _ in range(presses):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.2)

    threading.Thread(target=wait, daemon=True).start()


def command(name, out, *more):
    sizes = ["--num-envs", "2", "--eval-envs", "1", "--eval-steps", "3", "--ppo.horizon", "4"]
    steps = ["--total-steps", "400", "--checkpoint-every", "1", "--no-progress"]
    return ["train", "ppo", f"hanging/{name}", *sizes, *steps, "--out", str(out), *more]


@pytest.mark.parametrize("name", ["plain", "workers"])
@pytest.mark.parametrize(
    ("after", "presses"),
    [("0.1", 1), ("60", 2), ("0.5", 1)],
    ids=["once it is known to hang", "twice before that", "once before that"],
)
def test_ctrl_c_ends_a_training_whose_env_hangs(name, after, presses, hanging, tmp_path, capfd):
    mark, made = hanging
    known = after == "0.1"
    when(env_hangs if known else mark.exists, presses)
    out = tmp_path / "run"
    before = signal.getsignal(signal.SIGINT)
    assert main(command(name, out, "--warn-after", after)) == 130
    assert signal.getsignal(signal.SIGINT) is before
    told = capfd.readouterr()
    assert told.out == (
        f"stopped at once; continue with: diffsurrogate train --resume --out {out}\n"
    )
    assert "Traceback" not in told.err
    assert ("stopping after the update under way" in told.err) is not known
    assert (out / "checkpoints" / "last.pt").is_file()
    assert not any(process.is_alive() for raw in made for process in raw.processes)


def test_ctrl_c_ends_a_training_that_has_not_begun(tmp_path, hanging, monkeypatch, capfd):
    def make(name, **options):
        signal.raise_signal(signal.SIGINT)

    register_env("hanging", make)
    assert main(command("plain", tmp_path / "run")) == 130
    assert not (tmp_path / "run").exists()
    told = capfd.readouterr()
    assert told.out == "stopped at once; the run had not begun\n"
    assert "Traceback" not in told.err

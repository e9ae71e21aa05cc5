"""The command line's methods that need no gradients: PPO, IPPO, MAPPO, Stable-Baselines3's PPO."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from PIL import Image
from torch import Tensor
from toys.processes import wait_for_updates

from diffsurrogate.__main__ import main
from diffsurrogate.algorithms.ppo import PPOConfig
from diffsurrogate.cli.options import TrainOptions, what_differs
from diffsurrogate.config import differences
from diffsurrogate.training.checkpoint import load_checkpoint

METHODS = ["ppo", "ippo", "mappo", "sb3-ppo"]
ENVS, HORIZON, AGENTS = 5, 3, 2


def small(method: str) -> list[str]:
    """Windows of 15 steps and minibatches of 7, the last of which is smaller."""
    run = ["--num-envs", "5", "--eval-envs", "3", "--eval-steps", "5", "--film-steps", "4"]
    if method == "sb3-ppo":
        own = ["--sb3.horizon", "3", "--sb3.batch-size", "7", "--sb3.epochs", "2"]
    else:
        own = ["--ppo.horizon", "3", "--ppo.clip.batch-size", "7", "--ppo.clip.epochs", "2"]
    return [*run, *own, "--checkpoint-every", "1", "--no-progress"]


def train(method: str, env: str = "paper/dispersion", *more: str, iterations: int = 2) -> list[str]:
    agents = ["--agents", str(AGENTS)] if env.startswith("paper/") else []
    steps = ["--total-steps", str(iterations * ENVS * HORIZON)]
    return ["train", method, env, *agents, *small(method), *steps, *more]


def leaves(state: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Everything in a checkpoint, with its name."""
    if isinstance(state, dict):
        for name, value in state.items():
            yield from leaves(value, f"{path}.{name}")
    elif isinstance(state, list | tuple):
        for index, value in enumerate(state):
            yield from leaves(value, f"{path}[{index}]")
    else:
        yield path, state


def check_equal(one: dict[str, Any], other: dict[str, Any]) -> int:
    """Compare all tensors and numbers of two checkpoints; return how many there were."""
    expected, got = dict(leaves(one)), dict(leaves(other))
    assert expected.keys() == got.keys()
    for name, value in expected.items():
        same = torch.equal(value, got[name]) if isinstance(value, Tensor) else value == got[name]
        assert same, name
    return len(expected)


# --- whole runs --------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_a_run_is_trained_evaluated_and_rendered(method, tmp_path, capsys):
    out = tmp_path / "run"
    assert main([*train(method), "--out", str(out)]) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["method"], summary["network"]) == (method, "mlp")
    assert (summary["agents"], summary["updates"], summary["env_steps"]) == (2, 2, 30)
    with Image.open(out / "curve.png") as curve, Image.open(out / "rollout.gif") as film:
        assert curve.size[0] > 500
        assert film.size[1] == 200
    assert main(["evaluate", str(out), "--num-envs", "3", "--steps", "5"]) == 0
    evaluation = json.loads((out / "evaluation.json").read_text())
    assert evaluation["mean_return"] == summary["mean_return"]  # the same policy and episodes
    (out / "rollout.gif").unlink()
    assert main(["render", str(out), "--num-envs", "2", "--steps", "4"]) == 0
    assert (out / "rollout.gif").exists()
    capsys.readouterr()
    assert main(["report", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[2].startswith(f"| {method} | paper/dispersion | 2")


def test_evaluating_again_gives_what_the_policy_had_learned(tmp_path):
    """Pendulum costs whatever one does, so equal returns are equal policies."""
    for method in ("mappo", "sb3-ppo"):
        out = tmp_path / method
        assert main([*train(method, "gymnasium/Pendulum-v1"), "--out", str(out)]) == 0
        summary = json.loads((out / "summary.json").read_text())
        assert main(["evaluate", str(out), "--num-envs", "3"]) == 0
        evaluation = json.loads((out / "evaluation.json").read_text())
        assert evaluation["mean_return"] == summary["mean_return"] < -5


@pytest.mark.parametrize("method", METHODS)
def test_choices_are_trained_too(method, tmp_path):
    out = tmp_path / "run"
    command = train(method, "gymnasium/CartPole-v1", "--film-steps", "0", "--out", str(out))
    assert main(command) == 0
    assert json.loads((out / "summary.json").read_text())["mean_return"] > 0
    assert main(["evaluate", str(out), "--num-envs", "3"]) == 0


@pytest.mark.parametrize("method", ["ppo", "sb3-ppo"])
def test_a_killed_run_resumes_to_the_same_state(method, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    command = train(method, iterations=20)
    assert main([*command, "--out", str(whole)]) == 0
    with subprocess.Popen(
        [sys.executable, "-m", "diffsurrogate", *command, "--out", str(killed)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
    ) as process:
        wait_for_updates(killed, 2, process)
        process.send_signal(signal.SIGKILL)
        process.wait(60)
    assert not (killed / "summary.json").exists()
    assert main(["train", "--resume", "--out", str(killed), "--no-progress"]) == 0
    one, other = (
        load_checkpoint(out / "checkpoints" / "last.pt")["agent"] for out in (whole, killed)
    )
    assert one["update"] == 20
    assert check_equal(one, other) > 50


def test_an_env_without_a_state_resumes_with_new_episodes(tmp_path):
    out = str(tmp_path / "run")
    for method in ("ppo", "sb3-ppo"):
        out = str(tmp_path / method)
        command = train(method, "gymnasium/CartPole-v1", "--film-steps", "0", "--out", out)
        assert main(command) == 0
        more = ["--total-steps", "75", "--resume", "--out", out]
        assert main([*command[:3], *more, "--no-progress"]) == 0
        assert json.loads((tmp_path / method / "summary.json").read_text())["updates"] == 5


# --- films -------------------------------------------------------------------------------------


class Lamp(gymnasium.Env[Any, Any]):
    """Draws one grey picture, or lacks the package it would draw with."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    observation_space = spaces.Box(-1, 1, (2,), np.float32)
    action_space = spaces.Discrete(3)

    def __init__(self, render_mode: str | None = None, package: bool = True) -> None:
        self.render_mode, self.package = render_mode, package

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> Any:
        return np.zeros(2, np.float32), 1.0, False, False, {}

    def render(self) -> Any:
        if not self.package:
            raise gymnasium.error.DependencyNotInstalled("pip install lamp-oil")
        return np.full((20, 30, 3), 128, np.uint8)


@pytest.fixture
def lamp() -> Iterator[None]:
    names = {"Lamp-v0": {}, "DarkLamp-v0": {"package": False}, "Radio-v0": {}}
    for name, kwargs in names.items():
        gymnasium.register(name, lambda **k: Lamp(**k), max_episode_steps=6, kwargs=kwargs)
    yield
    for name in names:
        del gymnasium.registry[name]


def test_a_gymnasium_env_is_filmed(lamp, tmp_path, capsys):
    out = tmp_path / "run"
    assert main([*train("ppo", "gymnasium/Lamp-v0"), "--out", str(out)]) == 0
    assert f"{out / 'rollout.gif'}\n" in capsys.readouterr().out
    assert main(["render", str(out), "--num-envs", "2", "--out", str(tmp_path / "a.gif")]) == 0
    with Image.open(out / "rollout.gif") as four, Image.open(tmp_path / "a.gif") as two:
        assert four.size == (4 * 304 - 4, 200)
        assert two.size == (2 * 304 - 4, 200)


def test_a_run_ends_well_though_it_cannot_be_filmed(lamp, tmp_path, capsys):
    out = tmp_path / "run"
    assert main([*train("ppo", "gymnasium/DarkLamp-v0"), "--out", str(out)]) == 0
    (line,) = [s for s in capsys.readouterr().out.splitlines() if "rollout.gif" in s]
    assert line.startswith("  no rollout.gif: ")
    assert "lamp-oil" in line
    assert (out / "summary.json").exists()
    assert not (out / "rollout.gif").exists()
    assert main(["render", str(out)]) == 2
    assert "lamp-oil" in capsys.readouterr().err


# --- options -----------------------------------------------------------------------------------


def preset(method: str, env: str = "paper/dispersion", **start: Any) -> TrainOptions:
    return TrainOptions.recommended(method, env, **start)


@pytest.mark.parametrize(
    ("method", "network", "actor", "critic"),
    [
        ("ppo", "mlp", ("joint", True), ("joint", True)),
        ("ppo", "shared", ("shared", True), ("shared", True)),
        ("ppo", "transformer", ("transformer", True), ("transformer", True)),
        ("ippo", "mlp", ("separate", True), ("separate", True)),
        ("ippo", "shared", ("shared", False), ("shared", False)),
        ("mappo", "mlp", ("separate", True), ("joint", True)),
        ("mappo", "shared", ("shared", False), ("joint", True)),
        ("mappo", "transformer", ("transformer", True), ("transformer", True)),
    ],
)
def test_every_network_is_what_its_name_says(method, network, actor, critic):
    """Whether the others are seen (context) matters to shared networks only."""
    options = preset(method, network=network)
    for net, expected in ((options.ppo.actor.net, actor), (options.ppo.critic.net, critic)):
        assert (net.architecture, net.pool_others) == expected
    assert options.folder.name == f"{method}-paper-dispersion-1-{network}-0"


def test_stable_baselines_is_joint_or_shared():
    assert preset("sb3-ppo").sb3.joint
    assert not preset("sb3-ppo", network="shared").sb3.joint


@pytest.mark.parametrize(
    ("method", "config"),
    [("ppo", PPOConfig), ("ippo", PPOConfig.ippo), ("mappo", PPOConfig.mappo)],
)
def test_a_method_starts_from_its_own_defaults(method, config):
    ppo = preset(method, "vmas/navigation").ppo
    assert type(ppo) is PPOConfig
    assert not differences(vars(ppo), vars(config()))


@pytest.mark.parametrize(
    "env", ["mujoco/Hopper-v5", "gymnasium/Hopper-v5", "mamujoco/HalfCheetah-6x1"]
)
def test_robots_start_from_the_same_noise_and_rate(env):
    mixed, ppo, sb3 = preset("shac++", env).shac, preset("ppo", env).ppo, preset("sb3-ppo", env).sb3
    assert mixed.actor.std == ppo.actor.std == sb3.std == 0.5
    assert mixed.score.lr == ppo.clip.lr == sb3.lr == 5e-4
    assert preset("sb3-ppo", "gymnasium/NoSuchEnv-v0").sb3.std is None


@pytest.mark.parametrize("network", ["mlp", "hyper-mlp"])
def test_on_envs_of_others_a_network_keeps_its_form_and_takes_the_mixed_noise(network):
    actor = preset("shac++", "mpe2/simple_spread_v3", network=network).shac.actor
    assert actor.net.architecture == {"mlp": "joint", "hyper-mlp": "hyper-mlp"}[network]
    assert actor.learn_std
    assert actor.std == 0.5


@pytest.mark.parametrize("env", ["paper/dispersion", "gymnasium/CartPole-v1", "vmas/balance"])
@pytest.mark.parametrize("network", ["mlp", "shared"])
@pytest.mark.parametrize("method", ["shac++", *METHODS])
def test_options_survive_json_and_do_not_differ_from_themselves(method, network, env):
    options = preset(method, env, network=network, agents=3 if env.startswith("paper") else None)
    content = json.loads(json.dumps(options.to_json()))
    assert TrainOptions.from_json(content) == options
    assert what_differs(content) == ""
    sections = {"shac", "surrogates", "ppo", "bppo", "sb3"} & content.keys()
    expected = {"shac++": {"shac", "surrogates"}, "sb3-ppo": {"sb3"}}
    assert sections == expected.get(method, {"ppo"})


def test_what_was_changed_is_named():
    content = preset("ippo").to_json()
    content["ppo"]["clip"]["epochs"] = 7
    assert what_differs(content) == "ppo.clip.epochs=7"


BAD = {
    "transformer of ippo": (["ippo", "paper/dispersion", "--network", "transformer"], "see only"),
    "transformer of sb3": (["sb3-ppo", "paper/dispersion", "--network", "transformer"], "shared"),
    "no gradients": (["shac", "gymnasium/CartPole-v1"], "no gradients of its own"),
    "choices": (["shac+", "gymnasium/CartPole-v1"], "Leave dynamics=True to learn one"),
    "another's options": (
        ["ppo", "paper/dispersion", "--shac.horizon", "4"],
        "ppo has no option --shac.horizon; did you mean --ppo.horizon?",
    ),
    "ours to theirs": (["sb3-ppo", "paper/dispersion", "--ppo.horizon", "4"], "--sb3.horizon"),
    "surrogates of ppo": (
        ["mappo", "paper/dispersion", "--surrogates.minibatches", "4"],
        "mappo has no option --surrogates.minibatches",
    ),
    "surrogates of shac": (
        ["shac", "paper/transport", "--surrogates.minibatches=4"],
        "shac has no option --surrogates.minibatches",
    ),
    "misspelt": (["ppo", "paper/dispersion", "--num_env", "4"], "did you mean --num-envs?"),
    "a stray word": (["ppo", "paper/dispersion", "3"], "ppo has no option 3;"),
    "unknown method": (["ppoo", "paper/dispersion"], "did you mean 'ppo'?"),
    "horizon": (["ppo", "paper/dispersion", "--ppo.horizon", "0"], "at least 1"),
    "their horizon": (["sb3-ppo", "paper/dispersion", "--sb3.horizon", "0"], "at least 1"),
    "their minibatch": (["sb3-ppo", "paper/dispersion", "--sb3.batch-size", "1"], "at least 2"),
    "their widths": (["sb3-ppo", "paper/dispersion", "--sb3.hidden", "0"], "at least 1"),
    "squash": (["ppo", "paper/dispersion", "--ppo.actor.squash"], "actor.squash False"),
    "one step": (
        ["sb3-ppo", "gymnasium/CartPole-v1", "--num-envs", "1", "--sb3.horizon", "1"],
        "raise num_envs",
    ),
}


@pytest.mark.parametrize(("arguments", "advice"), list(BAD.values()), ids=list(BAD))
def test_what_cannot_work_gets_one_line_of_advice_and_writes_nothing(
    arguments, advice, tmp_path, capsys
):
    out: Path = tmp_path / "run"
    assert main(["train", *arguments, "--out", str(out)]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    assert advice in message
    assert not out.exists()

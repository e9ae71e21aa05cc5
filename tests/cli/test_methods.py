"""The command line's methods that need no gradients: films, and what each starts from."""

import sys
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from PIL import Image

from diffsurrogate.__main__ import _parse, main
from diffsurrogate.algorithms.ppo import PPOConfig
from diffsurrogate.cli.options import TrainOptions, what_differs
from diffsurrogate.config import differences
from diffsurrogate.presets.recipe import SB3_METHODS

ENVS, HORIZON = 5, 3


def small(method: str) -> list[str]:
    """Windows of 15 steps and minibatches of 7, the last of which is smaller."""
    run = ["--num-envs", "5", "--eval-envs", "3", "--eval-steps", "5", "--film-steps", "4"]
    if method in SB3_METHODS:
        own = ["--sb3.horizon", "3", "--sb3.batch-size", "7"]
    else:
        own = ["--ppo.horizon", "3", "--ppo.clip.batch-size", "7", "--ppo.clip.epochs", "2"]
    return [*run, *own, "--checkpoint-every", "1", "--no-progress"]


def train(method: str, env: str, *more: str) -> list[str]:
    return ["train", method, env, *small(method), "--total-steps", str(2 * ENVS * HORIZON), *more]


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
    names = {"Lamp-v0": {}, "DarkLamp-v0": {"package": False}}
    for name, kwargs in names.items():
        gymnasium.register(name, lambda **k: Lamp(**k), max_episode_steps=6, kwargs=kwargs)
    yield
    for name in names:
        del gymnasium.registry[name]


@pytest.mark.parametrize(
    ("method", "more"),
    [("ppo", ()), ("mappo", ("--ppo.actor.net.gru_size", "8")), ("sb3-ppo", ())],
    ids=["ppo", "with memory", "sb3"],
)
def test_a_gymnasium_env_is_filmed(method, more, lamp, tmp_path, monkeypatch, capsys):
    out = tmp_path / "run"
    assert main([*train(method, "gymnasium/Lamp-v0", *more), "--out", str(out)]) == 0
    assert f"{out / 'rollout.gif'}\n" in capsys.readouterr().out
    assert main(["render", str(out), "--num-envs", "2", "--out", str(tmp_path / "a.gif")]) == 0
    with Image.open(out / "rollout.gif") as four, Image.open(tmp_path / "a.gif") as two:
        assert four.size == (4 * 304 - 4, 200)
        assert two.size == (2 * 304 - 4, 200)
    both = ["--num-envs", "2", "--untrained", "--out", str(tmp_path / "both.gif")]
    assert main(["render", str(out), *both]) == 0
    with Image.open(tmp_path / "both.gif") as film:
        assert film.size == (2 * 304 - 4, 2 * 220 + 4)
    if method != "ppo":
        return
    video = tmp_path / "a.mp4"
    assert main(["render", str(out), "--out", str(video)]) == 0
    ffmpeg = pytest.importorskip("imageio_ffmpeg")
    assert next(ffmpeg.read_frames(str(video)))["size"] == (4 * 304 - 4, 200)
    assert ffmpeg.count_frames_and_secs(str(video))[0] == 7 + 8  # rests at the end
    assert main(["render", str(out), "--out", str(tmp_path / "a.avi")]) == 2
    assert "let it end in .gif or .mp4" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    assert main(["render", str(out), "--out", str(video)]) == 2
    assert "pip install 'diffsurrogate[video]'" in capsys.readouterr().err


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


@pytest.mark.parametrize("method", SB3_METHODS)
def test_stable_baselines_is_joint_or_shared(method):
    assert preset(method).sb3.joint
    assert not preset(method, network="shared").sb3.joint


@pytest.mark.parametrize(
    "env", ["mujoco/HalfCheetah-v5", "gymnasium/Pendulum-v1", "mjx/halfcheetah"]
)
def test_an_update_of_sac_and_td3_is_as_long_on_few_copies_as_on_many(env):
    for method in ("sb3-sac", "sb3-td3"):
        options = preset(method, env)
        assert options.num_envs * options.sb3.horizon == 2048


@pytest.mark.parametrize(
    ("method", "config"), [("ppo", PPOConfig), ("ippo", PPOConfig.ippo), ("mappo", PPOConfig.mappo)]
)
def test_a_method_starts_from_its_own_defaults(method, config):
    ppo = preset(method, "vmas/navigation").ppo
    assert type(ppo) is PPOConfig
    assert not differences(vars(ppo), vars(config()))


@pytest.mark.parametrize(
    "env", ["mujoco/Hopper-v5", "gymnasium/Hopper-v5", "mamujoco/HalfCheetah-6x1"]
)
def test_robots_start_from_the_same_noise_and_rate(env):
    shac, ppo, sb3 = preset("shac++", env).shac, preset("ppo", env).ppo, preset("sb3-ppo", env).sb3
    assert shac.actor.std == ppo.actor.std == sb3.std == 0.5
    assert shac.update.ppo.lr == ppo.clip.lr == sb3.lr == 5e-4
    assert preset("sb3-ppo", "gymnasium/NoSuchEnv-v0").sb3.std is None


@pytest.mark.parametrize("network", ["mlp", "hyper-mlp"])
def test_on_envs_of_others_a_network_keeps_its_form_and_takes_the_noise_of_hybrid_updates(network):
    actor = preset("shac++", "mpe2/simple_spread_v3", network=network).shac.actor
    assert actor.net.architecture == {"mlp": "joint", "hyper-mlp": "hyper-mlp"}[network]
    assert actor.learn_std
    assert actor.std == 1.0


def test_what_was_changed_is_named():
    content = preset("ippo").to_json()
    content["ppo"]["clip"]["epochs"] = 7
    assert what_differs(content) == ("ppo.clip.epochs=7",)


@pytest.mark.parametrize(
    ("method", "conditioning", "scheme", "compound", "peer"),
    [
        ("bppo", "projection", "sequential", True, True),
        ("armappo", "projection", "simultaneous", False, False),
        ("happo", "none", "sequential", True, False),
    ],
)
def test_defaults_are_the_papers(method, conditioning, scheme, compound, peer):
    options = preset(method, "games/penalty")
    config = options.bppo
    assert config.actor.conditioning == conditioning
    found = (config.scheme, config.use_peer_ratio, config.use_peer_gradient)
    assert found == (scheme, compound, peer)
    assert config.update_order == ("random" if method == "happo" else "backward")
    assert options.num_envs * config.horizon == 50 * 200
    assert (config.clip.epochs, config.clip.lr, config.clip.entropy_weight) == (15, 5e-4, 0.01)
    assert config.actor.net.hidden == config.critic.net.hidden == (64,)
    robot = preset(method, "mamujoco/HalfCheetah-6x1")
    clip = robot.bppo.clip
    assert (robot.num_envs, robot.bppo.horizon, clip.epochs, clip.lr) == (40, 100, 5, 3e-4)
    same = preset("mappo", "mamujoco/HalfCheetah-6x1").ppo.actor.std
    assert robot.bppo.actor.std == same < 1


def test_mappo_has_the_same_settings_in_games_as_the_others():
    mappo = preset("mappo", "games/climbing")
    assert mappo.ppo.clip == preset("bppo", "games/climbing").bppo.clip
    assert mappo.ppo.actor.net.hidden == (64,)


@pytest.mark.parametrize(
    "arguments",
    [
        ["happo", "games/climbing", "--bppo.update_order", "random"],
        ["happo", "games/climbing", "--bppo.no-use-peer-ratio"],
        ["armappo", "games/climbing", "--bppo.actor.conditioning", "none"],
    ],
    ids=" ".join,
)
def test_options_are_judged_by_the_methods_own_defaults(arguments):
    options = _parse(["train", *arguments])
    assert isinstance(options, TrainOptions)
    assert not options.bppo.use_peer_gradient

"""bppo, armappo and happo on the command line: defaults, runs, resuming, refusals."""

import json

import pytest

from diffsurrogate.__main__ import _parse, main
from diffsurrogate.cli.options import TrainOptions

METHODS = ["bppo", "armappo", "happo"]
SMALL = ["--num-envs", "7", "--eval-envs", "3", "--eval-every", "2", "--film-steps", "0"]


def preset(method: str, env: str) -> TrainOptions:
    return TrainOptions.recommended(method, env)


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
    assert TrainOptions.from_json(json.loads(json.dumps(options.to_json()))) == options


def test_games_are_played_by_mappo_as_by_the_others():
    mappo = preset("mappo", "games/climbing")
    assert mappo.ppo.clip == preset("bppo", "games/climbing").bppo.clip
    assert mappo.ppo.actor.net.hidden == (64,)


@pytest.mark.parametrize("method", METHODS)
def test_a_run_is_resumed_to_the_same_end_and_evaluated(method, tmp_path, capsys):
    command = ["train", method, "games/climbing", *SMALL, "--stop-at", "2", "--no-progress"]
    paths = [tmp_path / "whole", tmp_path / "halved"]
    steps = str(4 * 7 * 5)
    assert main([*command, "--total-steps", steps, "--out", str(paths[0])]) == 0
    half = [*command, "--total-steps", str(2 * 7 * 5), "--out", str(paths[1])]
    assert main(half) == 0
    assert main(["train", "--resume", "--total-steps", steps, "--out", str(paths[1])]) == 0
    ends = [json.loads((path / "summary.json").read_text()) for path in paths]
    assert ends[0]["mean_return"] == ends[1]["mean_return"]
    assert ends[0]["env_steps"] == ends[1]["env_steps"] == 140
    capsys.readouterr()
    assert main(["evaluate", str(paths[0])]) == 0
    assert "normalised_return" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (["bppo", "games/climbing", "--network", "shared"], "leave out --network"),
        (["bppo", "games/climbing", "--ppo.gamma", "0.5"], "--bppo.gamma"),
        (["mappo", "games/climbing", "--bppo.gamma", "0.5"], "--ppo.gamma"),
        (["bppo", "games/climbing", "--bppo.update_order", "random"], "backward"),
    ],
)
def test_what_a_method_cannot_use_is_refused(arguments, advice, tmp_path, capsys):
    assert main(["train", *arguments, *SMALL, "--out", str(tmp_path / "run")]) != 0
    assert advice in capsys.readouterr().err


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

"""bppo, armappo and happo on the command line: defaults, runs, resuming, refusals."""

import json

import pytest

from diffsurrogate.__main__ import _parse
from diffsurrogate.cli.options import TrainOptions


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

"""Settings that are one of several classes: a word of the command line chooses which."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from diffsurrogate.__main__ import main
from diffsurrogate.algorithms.all_action import AllActionConfig
from diffsurrogate.algorithms.pathwise import PathwiseConfig
from diffsurrogate.algorithms.policy_updates import GradientUpdateConfig, HybridUpdateConfig
from diffsurrogate.cli.arguments import VARIANTS, read_train, resumed
from diffsurrogate.cli.options import TrainOptions, what_differs
from diffsurrogate.errors import UsageError
from diffsurrogate.nets.config import NET_CONFIGS
from diffsurrogate.surrogates.action_world_model import ActionWorldModelConfig
from diffsurrogate.surrogates.step_model import StepModelConfig

NAVIGATION = ("shac++", "vmas/navigation")  # gradient, pathwise and step by itself
DISPERSION = ("shac++", "paper/dispersion")  # hybrid, pathwise and step by itself


def setting(options: TrainOptions, path: str) -> Any:
    found: Any = options
    for name in path.split("."):
        found = getattr(found, name)
    return found


@pytest.mark.parametrize(
    ("path", "word", "kind"),
    [
        (path, word, kind)
        for path, variants in (
            ("shac.update", VARIANTS[0]),
            ("shac.update.gradient", VARIANTS[1]),
            ("surrogates.dynamics", VARIANTS[2]),
            ("shac.critic.net", NET_CONFIGS),
        )
        for word, kind in variants.items()
    ],
)
@pytest.mark.parametrize("task", [NAVIGATION, DISPERSION], ids=" ".join)
def test_a_word_chooses_the_class_and_survives_json(task, path, word, kind):
    options = read_train([*task, f"--{path}", word])
    assert type(setting(options, path)) is kind
    content = json.loads(json.dumps(options.to_json()))
    assert TrainOptions.from_json(content) == options
    usual = TrainOptions.recommended(*task)
    if type(setting(usual, path)) is kind:
        assert options == usual
    else:
        assert any(setting.startswith(path) for setting in what_differs(content))


EVERY_ACTION = AllActionConfig(minibatches=3)


def hybrid(start: Any) -> HybridUpdateConfig:
    if not isinstance(start, HybridUpdateConfig):
        start = HybridUpdateConfig(gradient=start.gradient)
    return replace(start, weight=0.7, ppo=replace(start.ppo, epochs=3))


def plain(start: Any) -> GradientUpdateConfig:
    return GradientUpdateConfig(lr=0.02, max_grad_norm=0.5, gradient=start.gradient)


@pytest.mark.parametrize(
    ("path", "word", "more", "expected"),
    [
        ("shac.update", "hybrid", {"weight": "0.7", "ppo.epochs": "3"}, hybrid),
        ("shac.update", "gradient", {"lr": "0.02", "max-grad-norm": "0.5"}, plain),
        ("shac.update.gradient", "pathwise", {"segment-length": "4"}, {"segment_length": 4}),
        ("shac.update.gradient", "all-action", {"minibatches": "3"}, EVERY_ACTION),
        ("surrogates.dynamics", "step", {"num-frequencies": "2"}, {"num_frequencies": 2}),
        ("surrogates.dynamics", "awm", {"width": "16"}, ActionWorldModelConfig(width=16)),
    ],
    ids=["hybrid", "gradient", "pathwise", "all-action", "step", "awm"],
)
@pytest.mark.parametrize("task", [NAVIGATION, DISPERSION], ids=" ".join)
@pytest.mark.parametrize("last", [False, True], ids=["word first", "word last, after ="])
def test_the_options_of_the_chosen_variant_are_accepted(task, last, path, word, more, expected):
    """What is expected: a configuration, changes to the recommended one, or a function of it."""
    options = [part for name, value in more.items() for part in (f"--{path}.{name}", value)]
    words = [*options, f"--{path}={word}"] if last else [f"--{path}", word, *options]
    start = setting(TrainOptions.recommended(*task), path)
    if isinstance(expected, dict):
        expected = replace(start, **expected)
    elif callable(expected):
        expected = expected(start)
    assert setting(read_train([*task, *words]), path) == expected


@pytest.mark.parametrize(
    "arguments",
    [
        "--shac.update hybrid --shac.update.lr 0.1",
        "--shac.update gradient --shac.update.weight 0.1",
        "--shac.update.gradient all-action --shac.update.gradient.lam 0.1",
        "--surrogates.dynamics awm --surrogates.dynamics.num-frequencies 1",
        "--surrogates.dynamics step --surrogates.dynamics.width 16",
    ],
)
def test_the_options_of_the_other_variant_are_refused(arguments):
    option = arguments.split()[2]
    with pytest.raises(UsageError, match=rf"has no option {option}\b"):
        read_train([*NAVIGATION, *arguments.split()])


def test_what_both_variants_have_is_kept():
    words = ["--shac.update.gradient.minibatches", "3"]
    recommended = TrainOptions.recommended(*DISPERSION).shac.update
    assert isinstance(recommended, HybridUpdateConfig)
    plain = read_train([*DISPERSION, "--shac.update", "gradient"]).shac.update
    assert plain == GradientUpdateConfig(gradient=recommended.gradient)
    assert recommended.gradient.minibatches == 2
    every = read_train([*DISPERSION, "--shac.update.gradient", "all-action"]).shac.update
    assert every == replace(recommended, gradient=AllActionConfig(minibatches=2))
    both = ["--shac.update.gradient", "all-action", "--shac.update", "gradient"]
    assert read_train([*DISPERSION, *both, *words]).shac.update == GradientUpdateConfig(
        gradient=AllActionConfig(minibatches=3)
    )
    two = ["--surrogates.dynamics", "awm", "--surrogates.dynamics", "step"]  # the last counts
    assert type(read_train([*NAVIGATION, *two]).surrogates.dynamics) is StepModelConfig


SMALL = [
    *("--num-envs", "5", "--eval-envs", "3", "--eval-steps", "5", "--film-steps", "0"),
    *("--shac.horizon", "3", "--shac.value.minibatches", "2", "--surrogates.fit.minibatches", "2"),
    "--no-progress",
]


def test_a_resumed_run_keeps_its_variants(tmp_path: Path, capsys):
    out = str(tmp_path / "run")
    hybrid = ["--shac.update", "hybrid", "--shac.update.ppo.epochs", "2"]
    world = ["--surrogates.dynamics", "awm", "--surrogates.dynamics.width", "8"]
    command = ["train", *NAVIGATION, "--agents", "2", *SMALL, *hybrid, *world, "--out", out]
    assert main([*command, "--total-steps", "30"]) == 0
    options = resumed(["--resume", "--out", out])
    assert isinstance(options.shac.update, HybridUpdateConfig)
    assert options.shac.update.ppo.epochs == 2
    assert isinstance(options.shac.update.gradient, PathwiseConfig)
    assert options.surrogates.dynamics == ActionWorldModelConfig(width=8)
    again = ["train", "--resume", "--out", out, "--no-progress"]
    assert main([*again, *hybrid, *world, "--total-steps", "45"]) == 0
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["updates"] == 3
    capsys.readouterr()
    for other, name in (
        (["--shac.update", "gradient"], "shac.update."),
        (["--shac.update.gradient", "all-action"], "shac.update.gradient."),
        (["--surrogates.dynamics", "step"], "surrogates.dynamics."),
    ):
        assert main([*again, *other]) == 2
        message = capsys.readouterr().err
        assert f"has {name}" in message
        assert message.count("\n") == 1

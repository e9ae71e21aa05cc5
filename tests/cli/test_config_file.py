"""A configuration leaves by `config` and comes back by `train --config`, the same to the bit."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from diffsurrogate.__main__ import main
from diffsurrogate.cli.arguments import read_train
from diffsurrogate.errors import UsageError
from diffsurrogate.nets.config import SeparateNetConfig
from diffsurrogate.surrogates.action_world_model import ActionWorldModelConfig
from diffsurrogate.training.checkpoint import load_checkpoint

PENDULUM = ["ppo", "gymnasium/Pendulum-v1"]
NAVIGATION = ["shac++", "vmas/navigation"]
LINES = [
    *(
        [method, "gymnasium/Pendulum-v1"]
        for method in ("shac+", "ippo", "happo", "sb3-ppo", "sb3-td3")
    ),
    [*NAVIGATION, "--agents", "2", "--network", "transformer-id"],
    [*NAVIGATION, "--preset", "shac", "--seed", "3"],
    [*NAVIGATION, "--surrogates.dynamics", "awm", "--shac.update", "hybrid"],
    [*NAVIGATION, "--shac.update.gradient", "all-action", "--shac.critic.net", "separate"],
    [*PENDULUM, "--out", "there", "--time-limit", "inf", "--no-progress", "--ppo.no-scale-rewards"],
    [*PENDULUM, "--env-options", "g", "9.81", "x", "True", "--ppo.critic-lr", "1e-05"],
]


def printed(arguments: list[str], capsys: Any) -> str:
    assert main(["config", *arguments]) == 0
    return capsys.readouterr().out


def written(tmp_path: Path, content: Any) -> Path:
    file = tmp_path / "run.yaml"
    file.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return file


@pytest.mark.parametrize("line", LINES)
def test_what_is_printed_is_read_back(line, tmp_path, capsys):
    options = read_train(line)
    text = printed(line, capsys)
    assert yaml.safe_load(text) == json.loads(json.dumps(options.to_json()))
    file = written(tmp_path, text)
    assert read_train(["--config", str(file)]) == options
    assert read_train([*line[:2], "--config", str(file)]) == options
    as_json = tmp_path / "config.json"
    as_json.write_text(json.dumps(options.to_json()))
    assert read_train(["--config", str(as_json)]) == options


def test_a_run_from_a_file_has_the_same_weights_to_the_bit(tmp_path, capsys):
    line = [
        *NAVIGATION,
        *("--agents", "2", "--num-envs", "3", "--eval-envs", "2", "--total-steps", "24"),
        *(
            "--shac.horizon",
            "4",
            "--surrogates.fit.minibatches",
            "2",
            "--shac.critic.net",
            "shared",
        ),
        *("--no-progress", "--film-steps", "0", "--eval-steps", "3"),
    ]
    runs = [tmp_path / name for name in ("options", "printed", "copied")]
    file = written(tmp_path, printed(line, capsys))
    assert main(["train", *line, "--out", str(runs[0])]) == 0
    assert main(["train", "--config", str(file), "--out", str(runs[1])]) == 0
    first = str(runs[0] / "config.json")
    assert main(["train", "--config", first, "--out", str(runs[2])]) == 0
    states = [load_checkpoint(run / "checkpoints" / "last.pt")["agent"] for run in runs]
    assert states[0]["iteration"] == 2
    for state in states[1:]:
        for part in ("parts", "predictor"):
            torch.testing.assert_close(state[part], states[0][part], rtol=0, atol=0)
        models, expected = (one["learned"]["models"] for one in (state, states[0]))
        torch.testing.assert_close(models, expected, rtol=0, atol=0)
    assert main(["train", "--config", first]) == 2  # into a folder that has a run already
    assert main(["train", "--config", first, "--out", str(runs[0])]) == 2
    assert "continue it with --resume" in capsys.readouterr().err


def test_a_file_may_set_a_part_and_the_command_line_has_the_last_word(tmp_path):
    content = {
        "method": "shac++",
        "env": "vmas/navigation",
        "agents": 2,
        "env_options": {"shared_rew": True, "n": 3},
        "shac": {"horizon": 8, "critic": {"net": {"architecture": "separate", "hidden": [7]}}},
        "surrogates": {"dynamics": {"width": 16}, "fit": {"lr": "1e-3"}},
    }
    file = str(written(tmp_path, content))
    options = read_train(["--config", file, "--agents", "3", "--shac.horizon=16", "--seed", "4"])
    changed = {"--shac.critic.net": "separate", "--surrogates.dynamics": "awm", "--seed": "4"}
    words = [word for pair in changed.items() for word in pair]
    expected = read_train(
        [
            *NAVIGATION,
            *("--agents", "3", "--shac.horizon", "16", "--shac.critic.net.hidden", "7"),
            *("--surrogates.dynamics.width", "16", "--surrogates.fit.lr", "1e-3", *words),
            *("--env-options", "shared_rew", "True", "n", "3"),
        ]
    )
    assert options == expected
    assert isinstance(options.shac.critic.net, SeparateNetConfig)
    assert isinstance(options.surrogates.dynamics, ActionWorldModelConfig)
    other = read_train(["--config", file, "--env-options", "n", "4"])
    assert other.env_options == {"n": 4}
    short = {**content, "surrogates": {"dynamics": "awm"}}
    assert isinstance(
        read_train(["--config", str(written(tmp_path, short))]).surrogates.dynamics,
        ActionWorldModelConfig,
    )


OWN = {"method": "ppo", "env": "gymnasium/Pendulum-v1", "network": "mlp"}
REFUSED = [
    ({"ppo": {"horizn": 5}}, "", "ppo has no option --ppo.horizn; did you mean --ppo.horizon?"),
    ({"sead": 5}, "", "ppo has no option --sead; did you mean --seed?"),
    ({"sead": None}, "", "ppo has no option --sead; did you mean --seed?"),
    ({"shac": {"horizon": 5}}, "", "ppo has no option --shac.horizon; did you mean --ppo.horizon?"),
    ({"ppo": {"horizon": 0}}, "", "horizon is 0; a window needs at least 1 step"),
    ({"method": "pppo"}, "", "did you mean 'ppo'"),
    ({"ppo": {"actor": {"net": {"architecture": "jiont"}}}}, "", "did you mean 'joint'"),
    ({"surrogates": {"dynamics": "rssm"}}, "", "ppo has no option --surrogates.dynamics"),
    ({"format": 1}, "", "is of format 1, this version reads 2"),
    ({"resume": True}, "", "give --resume --out FOLDER instead"),
    ({}, "mappo gymnasium/Pendulum-v1", "method is ppo there, not mappo"),
    ({}, "ppo gymnasium/CartPole-v1", "env is gymnasium/Pendulum-v1 there, not gymnasium/CartPole"),
    ({}, "--network shared", "network is mlp there, not shared"),
    ({"env": None}, "", "'None'"),
    ({}, "--resume", "a resumed run has its own configuration; leave out --config"),
    ({}, "--ppo.horizn 3", "did you mean --ppo.horizon?"),
]


@pytest.mark.parametrize(("content", "arguments", "advice"), REFUSED)
def test_a_file_that_cannot_work_gets_one_line_of_advice(
    content, arguments, advice, tmp_path, capsys
):
    words, file = arguments.split(), written(tmp_path, OWN | content)
    names = [] if words[:1] and words[0].startswith("-") else words[:2]
    asked = ["train", *names, "--config", str(file), *words[len(names) :]]
    assert main([*asked, "--out", str(tmp_path / "run")]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ") and message.count("\n") == 1
    assert advice in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"ppo": {"horizon": 1.5}}, "Error parsing --ppo.horizon: invalid literal for int"),
        ({"ppo": {"lr_schedule": "lineal"}}, "invalid choice 'lineal' for argument"),
        ({"progress": "maybe"}, "invalid choice 'maybe' for argument '--progress'"),
        ({"ppo": {"actor": {"net": {"hidden": "wide"}}}}, "Error parsing --ppo.actor.net.hidden"),
    ],
)
def test_a_value_of_another_type_is_refused_as_on_the_command_line(
    content, message, tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as stopped:
        read_train(["--config", str(written(tmp_path, OWN | content))])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("a: [1", r"(?s)cannot be read .*; give YAML or JSON"),
        ("- 1", "holds no options by name"),
        ("1: 2", "holds no options by name"),
        ("", "holds no options by name"),
        ("env: x/y", "names no method and env; start with these"),
    ],
)
def test_what_is_no_configuration_is_refused(text, advice, tmp_path):
    with pytest.raises(UsageError, match=advice):
        read_train(["--config", str(written(tmp_path, text))])
    with pytest.raises(UsageError, match=r"none\.yaml cannot be read"):
        read_train(["--config", str(tmp_path / "none.yaml")])

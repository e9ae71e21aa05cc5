"""`--env-options`: what an env is made with reaches training, evaluation and the doctor."""

import json
from dataclasses import replace

import pytest

from diffsurrogate.__main__ import main
from diffsurrogate.cli.options import TrainOptions

SMALL = ["--num-envs", "5", "--eval-envs", "3", "--max-steps", "6"]
CHOICES = ["--agents", "3", "--env-options", "continuous_actions", "False", "n_food", "2"]


def test_a_run_keeps_what_its_env_was_made_with(tmp_path, capsys):
    out = tmp_path / "run"
    command = ["train", "mappo", "vmas/dispersion", *CHOICES, *SMALL]
    assert main([*command, "--total-steps", "320", "--film-steps", "2", "--out", str(out)]) == 0
    config = json.loads((out / "config.json").read_text())
    assert config["env_options"] == {"continuous_actions": False, "n_food": 2}
    assert TrainOptions.from_json(config).env_options == config["env_options"]
    assert (out / "rollout.gif").stat().st_size > 100
    summary = json.loads((out / "summary.json").read_text())
    assert summary["episode_length"] <= 6  # the env tells no limit, so that of training holds
    capsys.readouterr()
    assert main(["evaluate", str(out), "--num-envs", "3"]) == 0  # 9 choices, not 2 forces
    assert "mean_return" in capsys.readouterr().out
    options = replace(
        TrainOptions.recommended("mappo", "mujoco/Ant-v5"),
        env_options={"xml_file": "a/b.xml", "threads": 2},
    )
    assert options.folder.name == "mappo-mujoco-Ant-v5-mlp-threads=2-xml_file=a-b.xml-0"


def test_a_run_is_resumed_with_what_its_env_was_made_with(tmp_path, capsys):
    start = ["train", "mappo", "games/penalty", *SMALL[:2], "--film-steps", "0"]
    start += ["--out", str(tmp_path / "run"), "--total-steps"]
    made = ["--env-options", "k", "-50.0"]
    assert main([*start, "25", *made]) == 0
    assert main([*start, "50", *made, "--resume"]) == 0
    assert main([*start, "75", "--resume"]) == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["env_options"] == {"k": -50.0}
    assert config["total_steps"] == 75
    capsys.readouterr()
    for other in (["k", "-50.0", "n", "3"], ["k", "-40.0"]):
        assert main([*start, "100", "--env-options", *other, "--resume"]) == 2
    assert "has env_options.k -50.0, not -40.0; leave the option out" in capsys.readouterr().err


def test_the_doctor_examines_the_env_that_is_meant_under_the_time_limit_given(tmp_path, capsys):
    command = ["doctor", "vmas/dispersion", *CHOICES, "max_steps", "9", "--num-envs", "4"]
    sizes = ["--transitions", "64", "--race", "0"]
    assert main([*command, *sizes, "--out", str(tmp_path)]) in (0, 1)
    text = capsys.readouterr().out
    assert "choices" in text
    assert "9 steps" in text


COMMANDS = {"train": ["train", "mappo"], "check": ["check-gradients"], "doctor": ["doctor"]}
NOT_HERE = ("num_envs", "n_agents", "seed", "device", "render_mode", "differentiable")


@pytest.mark.parametrize("name", [*NOT_HERE, "max_steps", "n_fod"])
@pytest.mark.parametrize("command", COMMANDS.values(), ids=list(COMMANDS))
def test_a_wrong_option_gets_advice_that_can_be_followed(
    name, command, tmp_path, monkeypatch, capsys
):
    if name == "max_steps" and command != COMMANDS["train"]:
        pytest.skip("it has no option of that name, so that this is the way to say it")
    monkeypatch.chdir(tmp_path)
    assert main([*command, "vmas/dispersion", "--env-options", name, "3"]) == 2
    said = capsys.readouterr().err
    assert name in said
    assert not list(tmp_path.iterdir())
    advised = [word for word in said.split() if word.startswith("--") and "env-options" not in word]
    with pytest.raises(SystemExit):
        main([*command, "vmas/dispersion", "--help"])
    shown = capsys.readouterr().out
    assert all(option in shown for option in advised)

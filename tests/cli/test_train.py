"""The command line: whole runs, resume after a kill, and advice for bad input."""

import csv
import json
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from toys.processes import wait_for_updates

from diffsurrogate.__main__ import main
from diffsurrogate.algorithms.shac import SHAC
from diffsurrogate.cli.options import TrainOptions
from diffsurrogate.errors import UsageError
from diffsurrogate.training.checkpoint import load_checkpoint, save_checkpoint
from diffsurrogate.training.run_folder import RunFolder

SMALL = [
    *("--num-envs", "5", "--eval-envs", "3", "--eval-every", "4", "--checkpoint-every", "1"),
    *("--shac.horizon", "3", "--shac.critic-updates", "2", "--shac.critic-batch-size", "16"),
    *("--surrogates.minibatches", "2", "--surrogates.batch-size", "16", "--no-progress"),
    *("--film-steps", "6"),
]
CARTPOLE = ["train", "shac", "diffsurrogate/cartpole-swingup", *SMALL]
DISPERSION = ["train", "shac++", "paper/dispersion", "--agents", "2", *SMALL, "--eval-steps", "5"]


def steps(iterations: int) -> list[str]:
    return ["--total-steps", str(iterations * 5 * 3)]


def test_a_run_leaves_everything_a_user_opens(tmp_path, capsys):
    out = tmp_path / "run"
    assert main([*DISPERSION, *steps(9), "--out", str(out)]) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert summary["method"] == "shac++"
    assert summary["env"] == "paper/dispersion"
    assert (summary["agents"], summary["updates"], summary["env_steps"]) == (2, 9, 135)
    assert 0 <= summary["normalised_return"] <= 1
    assert summary["cpu_seconds"] > 0
    assert set(summary["versions"]) == {"python", "torch", "numpy", "gymnasium", "diffsurrogate"}
    with (out / "metrics.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [int(float(row["update"])) for row in rows] == list(range(10))
    assert [bool(row["evaluation_mean_return"]) for row in rows] == [
        *(True, False, False, False) * 2,
        *(True, True),
    ]
    assert float(rows[-1]["dynamics_error"]) >= 0
    returns = [float(r["evaluation_mean_return"]) for r in rows if r["evaluation_mean_return"]]
    kept = summary["best_policy"]
    assert kept["update"] == [0, 4, 8, 9][returns.index(max(returns))]
    assert main(["evaluate", str(out), "--best", "--num-envs", "3"]) == 0
    assert json.loads((out / "evaluation.json").read_text())["mean_return"] == kept["mean_return"]
    assert list(out.glob("events.out.tfevents.*"))
    with Image.open(out / "curve.png") as curve, Image.open(out / "rollout.gif") as film:
        assert curve.size[0] > 500
        assert film.n_frames > 5
    assert "normalised return" in capsys.readouterr().out


def test_evaluate_render_and_report_read_a_run(tmp_path, capsys):
    for seed in ("1", "2", "3"):
        out = str(tmp_path / f"seed{seed}")
        assert main([*CARTPOLE, *steps(2), "--seed", seed, "--out", out]) == 0
    run = tmp_path / "seed1"
    assert main(["evaluate", str(run), "--num-envs", "3", "--steps", "7"]) == 0
    assert json.loads((run / "evaluation.json").read_text())["steps"] == 7
    (run / "rollout.gif").unlink()
    assert main(["render", str(run), "--num-envs", "2", "--steps", "5"]) == 0
    with Image.open(run / "rollout.gif") as film:
        assert film.n_frames > 5
    other = ["--seed", "4", "--shac.gamma", "0.9", "--out", str(tmp_path / "other")]
    assert main([*CARTPOLE, *steps(2), *other]) == 0
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "config.json").write_text("{}")
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "config.json").write_text("{}")
    (foreign / "summary.json").write_text((run / "summary.json").read_text())
    capsys.readouterr()
    assert main(["report", str(tmp_path)]) == 0
    text = (tmp_path / "report.md").read_text()
    usual, changed = (row.split(" | ") for row in text.splitlines()[2:4])
    assert usual[:4] == changed[:4] == ["| shac", "diffsurrogate/cartpole-swingup", "1", "mlp"]
    assert (usual[5], changed[5]) == ("1, 2, 3", "4")
    assert "shac.gamma=0.9" in changed[4]
    assert "shac.gamma" not in usual[4]
    assert "Not finished: unfinished" in text
    assert "No configuration of ours: foreign" in text
    assert (tmp_path / "report.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("arguments", "envs"),
    [
        (["ppo", "gymnasium/CartPole-v1"], "default: 16"),
        (["shac", "diffsurrogate/cartpole-swingup"], "default: 64"),
    ],
)
def test_help_shows_the_defaults_in_force(arguments, envs, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["train", *arguments, "--help"])
    assert stopped.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert envs in text[text.index("--num-envs") : text.index("--num-envs") + 100]


def test_check_gradients_tells_good_from_missing(capsys):
    assert main(["check-gradients", "diffsurrogate/cartpole-swingup", "--num-envs", "7"]) == 0
    command = ["check-gradients", "paper/dispersion", "--num-envs", "7", "--agents", "2"]
    assert main(command) == 1
    assert "all-zero" in capsys.readouterr().out


def parameters(out: Path) -> dict[str, torch.Tensor]:
    state = load_checkpoint(out / "checkpoints" / "last.pt")["agent"]
    learned = {f"actor.{k}": v for k, v in state["actor"].items()}
    learned |= {f"critic.{k}": v for k, v in state["critic"].items()}
    return learned | dict(state["learned"].get("models", {}))


KILLS = {
    "shac": (CARTPOLE, signal.SIGKILL),
    "shac++": (DISPERSION, signal.SIGKILL),
    "shac++ by Ctrl-C": (DISPERSION, signal.SIGINT),
}


@pytest.mark.parametrize(("command", "kill"), list(KILLS.values()), ids=list(KILLS))
def test_a_killed_run_resumes_to_the_same_parameters(command, kill, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert main([*command, *steps(40), "--out", str(whole)]) == 0
    arguments = [*command, *steps(40), "--out", str(killed)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-m", "diffsurrogate", *arguments],
        env=environment,
        stdout=subprocess.DEVNULL,
    ) as process:
        wait_for_updates(killed, 2, process)
        process.send_signal(kill)
        process.wait(60)
    assert process.returncode == (130 if kill == signal.SIGINT else -signal.SIGKILL)
    assert not (killed / "summary.json").exists()
    again = [*command[:3], "--resume", "--out", str(killed), "--no-progress"]
    assert main(again) == 0
    expected, got = parameters(whole), parameters(killed)
    assert expected.keys() == got.keys()
    for name, value in expected.items():
        assert torch.equal(value, got[name]), name
    with (killed / "metrics.csv").open() as stream:
        rows = [int(float(row["update"])) for row in csv.DictReader(stream)]
    assert rows == list(range(41))


@pytest.mark.parametrize("limit", ["--cpu-limit", "--time-limit"])
def test_a_limit_does_not_forgo_the_last_evaluation(limit, tmp_path):
    out = tmp_path / "run"
    assert main([*CARTPOLE, *steps(9), limit, "1e-6", "--out", str(out)]) == 0
    summary = json.loads((out / "summary.json").read_text())
    with (out / "metrics.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [int(float(row["update"])) for row in rows] == [0, 1]
    returns = [float(row["evaluation_mean_return"]) for row in rows]
    assert summary["best_policy"]["update"] == returns.index(max(returns))


def test_output_that_nobody_reads_any_more_is_no_error(tmp_path):
    command = [sys.executable, "-m", "diffsurrogate", "train", "shac++", "paper/dispersion", "-h"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""


def test_a_run_killed_while_it_keeps_its_best_policy_keeps_it_once_resumed(tmp_path, monkeypatch):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    command = [*CARTPOLE, *steps(12), "--checkpoint-every", "100", "--eval-every", "2"]
    assert main([*command, "--out", str(whole)]) == 0
    save_best, bests = RunFolder.save_best, []

    def kill(folder: RunFolder, state: dict[str, Any]) -> None:
        bests.append(state["agent"]["update"])
        if len(bests) == 2:
            raise RuntimeError("killed")
        save_best(folder, state)

    monkeypatch.setattr(RunFolder, "save_best", kill)
    with pytest.raises(RuntimeError, match="killed"):
        main([*command, "--out", str(killed)])
    monkeypatch.undo()
    assert main(["train", "--resume", "--out", str(killed), "--no-progress"]) == 0
    kept = [
        json.loads((out / "summary.json").read_text())["best_policy"] for out in (whole, killed)
    ]
    assert kept[0]["mean_return"] == kept[1]["mean_return"]
    for out in (whole, killed):
        state = load_checkpoint(out / "checkpoints" / "best.pt")
        assert state["agent"]["update"] == kept[0]["update"] == kept[1]["update"] >= bests[1]


@pytest.mark.parametrize("command", [CARTPOLE, DISPERSION], ids=["shac", "shac++"])
def test_ctrl_c_in_the_middle_of_an_update_stops_after_it(command, tmp_path, monkeypatch, capsys):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert main([*command, *steps(8), "--out", str(whole)]) == 0
    fit_critic = SHAC._fit_critic

    def interrupted(agent, obs, target):
        if agent.iteration == 5:
            signal.raise_signal(signal.SIGINT)
        return fit_critic(agent, obs, target)

    monkeypatch.setattr(SHAC, "_fit_critic", interrupted)
    before = signal.getsignal(signal.SIGINT)  # not Python's own where a shell started us with &
    rarely = ["--checkpoint-every", "100"]
    assert main([*command, *rarely, *steps(8), "--out", str(broken)]) == 130
    assert not (broken / "summary.json").exists()
    assert signal.getsignal(signal.SIGINT) is before
    assert load_checkpoint(broken / "checkpoints" / "last.pt")["agent"]["update"] == 6
    advice = capsys.readouterr().out.split("continue with: diffsurrogate ")[1].split()
    monkeypatch.undo()
    assert main(advice) == 0
    expected, got = parameters(whole), parameters(broken)
    assert all(torch.equal(value, got[name]) for name, value in expected.items())


def test_a_finished_run_can_be_prolonged_but_not_changed(tmp_path, capsys):
    out = str(tmp_path / "run")
    changed = ["--seed", "3", "--shac.actor.net.hidden", "8"]
    assert main([*CARTPOLE, *changed, *steps(2), "--out", out]) == 0
    again = ["train", "--resume", "--out", out, "--no-progress"]
    assert main([*again, *steps(5)]) == 0
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["updates"] == 5
    assert main([*CARTPOLE, *changed, *again[1:]]) == 0  # all repeated, and steps(5) remembered
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["updates"] == 5
    capsys.readouterr()
    contradictions = {
        "seed 3, not 0": ["--seed", "0"],  # though 0 is the default
        "shac.horizon 3, not 4": ["--shac.horizon", "4"],
        "shac.actor.net.hidden (8,), not (64, 64)": ["--shac.actor.net.hidden", "64", "64"],
    }
    for text, given in contradictions.items():
        assert main([*again, *given]) == 2
        assert f"has {text};" in capsys.readouterr().err
    assert main(["train", "shac++", *again[1:]]) == 2
    assert "has method shac, not shac++" in capsys.readouterr().err
    assert main(["train", "--resume"]) == 2
    assert "--out" in capsys.readouterr().err


def test_a_run_is_found_by_what_it_was_started_with(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = ["train", "shac++", "paper/dispersion", "--seed", "3"]  # agents are recommended
    assert main([*command, *SMALL, "--eval-steps", "5", *steps(2)]) == 0
    (run,) = (tmp_path / "runs").iterdir()
    assert main([*command, "--resume", *steps(3)]) == 0
    assert json.loads((run / "summary.json").read_text())["updates"] == 3


def test_a_run_that_goes_on_is_not_called_finished(tmp_path, monkeypatch):
    out = tmp_path / "run"
    assert main([*CARTPOLE, *steps(2), "--out", str(out)]) == 0
    monkeypatch.setattr(SHAC, "_fit_critic", lambda agent, obs, target: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["train", "--resume", "--out", str(out), *steps(5)])
    assert not (out / "summary.json").exists()


def test_cpu_seconds_can_be_limited(tmp_path):
    out = tmp_path / "run"
    assert main([*CARTPOLE, "--cpu-limit", "0.05", "--out", str(out)]) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert summary["stopped"] == "CPU limit"
    assert 0.05 <= summary["cpu_seconds"] < 5


BAD = {
    "unknown namespace": (["train", "shac", "vnas/dispersion"], "did you mean 'vmas'"),
    "unknown scenario": (["train", "shac++", "vmas/dispersio"], "dispersion"),
    "unknown task": (["train", "shac++", "paper/transprt"], "transport"),
    "horizon": ([*CARTPOLE[:3], "--shac.horizon", "0"], "at least 1"),
    "no agents": ([*DISPERSION[:3], "--agents", "0"], "agents is 0"),
    "agents of cart-pole": ([*CARTPOLE[:3], "--agents", "3"], "n_agents"),
    "no dynamics gradient": (["train", "shac+", "vmas/football"], "dynamics"),
    "no reward gradient": (["train", "shac", "paper/dispersion"], "LearnedDiffWrapper"),
    "device": ([*CARTPOLE[:3], "--device", "cuda:97"], "--device cpu"),
    "no such device": ([*CARTPOLE[:3], "--device", "abacus"], "--device cpu"),
    "neither cpu nor cuda": ([*CARTPOLE[:3], "--device", "meta"], "--device cpu"),
    "seed": ([*CARTPOLE[:3], "--seed", "-1"], "at least 0"),
    "evaluation steps": ([*CARTPOLE[:3], "--eval-steps", "0"], "at least 1"),
    "time": ([*CARTPOLE[:3], "--time-limit", "nan"], "at least 0"),
    "no run to resume": ([*CARTPOLE[:3], "--resume"], "check the path"),
}


@pytest.mark.parametrize(("arguments", "advice"), list(BAD.values()), ids=list(BAD))
def test_bad_input_gets_one_line_of_advice_and_writes_nothing(arguments, advice, tmp_path, capsys):
    out = tmp_path / "run"
    assert main([*arguments, "--out", str(out)]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    assert advice in message
    assert not out.exists()


def test_a_folder_that_cannot_be_made_gets_advice(tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    assert main([*CARTPOLE, "--out", str(tmp_path / "file" / "run")]) == 2
    assert "another --out" in capsys.readouterr().err


def test_an_existing_folder_is_not_written_over(tmp_path, capsys):
    (tmp_path / "precious.txt").write_text("mine")
    assert main([*CARTPOLE, "--out", str(tmp_path)]) == 2
    assert "--resume" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["precious.txt"]


class Bomb:
    """Runs code when unpickled."""

    def __reduce__(self):
        return (os.mkdir, ("exploded",))


def test_damaged_and_foreign_checkpoints_are_refused_without_running_them(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "run"
    assert main([*CARTPOLE, *steps(2), "--out", str(out)]) == 0
    file = out / "checkpoints" / "last.pt"
    again = [*CARTPOLE[:3], "--resume", "--out", str(out), *steps(5)]
    file.write_bytes(file.read_bytes()[:-500])
    assert main(again) == 2
    assert "cut short" in capsys.readouterr().err
    file.write_bytes(pickle.dumps(Bomb()))
    assert main(again) == 2
    torch.save({"format": "diffsurrogate-checkpoint", "version": 1, "state": Bomb()}, file)
    assert main(again) == 2
    torch.save({"weights": torch.zeros(3)}, file)
    assert main(again) == 2
    assert "is not a checkpoint of diffsurrogate" in capsys.readouterr().err
    assert not (tmp_path / "exploded").exists()


def test_checkpoints_of_another_format_version_are_named(tmp_path):
    file = tmp_path / "a.pt"
    torch.save({"format": "diffsurrogate-checkpoint", "version": 99, "state": {}}, file)
    with pytest.raises(UsageError, match="format 99"):
        load_checkpoint(file)
    torch.save({"format": "diffsurrogate-checkpoint", "version": 1, "state": {}}, file)
    with pytest.raises(UsageError, match=r"format 1, .* before format 2, see CHANGELOG"):
        load_checkpoint(file)
    save_checkpoint(file, {"x": torch.arange(3)})
    assert load_checkpoint(file)["x"].tolist() == [0, 1, 2]
    assert [p.name for p in tmp_path.iterdir()] == ["a.pt"]


def test_a_run_of_another_format_version_is_named(tmp_path, capsys):
    config = TrainOptions.recommended("ppo", "paper/dispersion").to_json()
    (tmp_path / "config.json").write_text(json.dumps(config | {"format": 1}))
    old = [["evaluate", str(tmp_path)], ["train", "--resume", "--out", str(tmp_path)]]
    for command in old:
        assert main(command) == 2
        assert "is of format 1, this version reads 2" in capsys.readouterr().err
    config.pop("format")
    with pytest.raises(UsageError, match="is of format 1"):
        TrainOptions.from_json(config)


def test_an_env_without_a_time_limit_asks_for_one(tmp_path, capsys):
    command = ["train", "shac", "vmas/navigation", "--out", str(tmp_path / "run")]
    assert main(command) == 2
    assert "--eval-steps" in capsys.readouterr().err

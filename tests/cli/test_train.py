"""The command line: whole runs, resume after a kill, and advice for bad input."""

import csv
import gzip
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from diffsurrogate.__main__ import main
from diffsurrogate.algorithms.shac import SHAC
from diffsurrogate.cli.options import TrainOptions
from diffsurrogate.cli.train import _text
from diffsurrogate.errors import UsageError
from diffsurrogate.training.checkpoint import load_checkpoint, save_checkpoint
from diffsurrogate.training.lock import FolderLock
from diffsurrogate.training.run_folder import RunFolder

SMALL = [
    *("--num-envs", "5", "--eval-envs", "3", "--eval-every", "4", "--checkpoint-every", "1"),
    *("--shac.horizon", "3", "--shac.value.minibatches", "2", "--shac.value.batch-size", "16"),
    *("--no-progress", "--film-steps", "0", "--eval-steps", "5"),
]
MODELS = ["--surrogates.fit.minibatches", "2", "--surrogates.fit.batch-size", "16"]
CARTPOLE = ["train", "shac", "diffsurrogate/cartpole-swingup", *SMALL]
DISPERSION = ["train", "shac++", "paper/dispersion", "--agents", "2", *SMALL, *MODELS]


def steps(iterations: int) -> list[str]:
    return ["--total-steps", str(iterations * 5 * 3)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run of two updates, which no test may change."""
    out = tmp_path_factory.mktemp("trained") / "run"
    assert main([*CARTPOLE, *steps(2), "--seed", "1", "--out", str(out)]) == 0
    return out


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """Return a copy of that run."""
    return shutil.copytree(trained, tmp_path / "run")


def test_a_profile_names_the_parts_of_an_update(tmp_path):
    out = tmp_path / "run"
    assert main([*DISPERSION, *steps(3), "--profile", "1", "--out", str(out)]) == 0
    trace = json.loads(gzip.decompress((out / "trace.json.gz").read_bytes()))
    names = [e["name"] for e in trace["traceEvents"] if e.get("cat") == "user_annotation"]
    for part in ("simulate window", "policy update", "critic update", "model update"):
        assert names.count(part) == 1


def test_a_run_leaves_everything_a_user_opens(tmp_path, capsys):
    out = tmp_path / "run"
    assert main([*DISPERSION, *steps(9), "--film-steps", "6", "--out", str(out)]) == 0
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


def test_evaluate_render_and_report_read_a_run(run, tmp_path, capsys):
    assert main(["evaluate", str(run), "--num-envs", "3", "--steps", "7"]) == 0
    assert json.loads((run / "evaluation.json").read_text())["steps"] == 7
    assert main(["render", str(run), "--num-envs", "2", "--steps", "5"]) == 0
    with Image.open(run / "rollout.gif") as film:
        assert film.n_frames > 5
    second = shutil.copytree(run, tmp_path / "second")
    for name in ("config.json", "summary.json"):
        content = json.loads((second / name).read_text())
        (second / name).write_text(json.dumps(content | {"seed": 2}))
    with (second / "metrics.csv").open("a") as rows:
        rows.write("torn\n")
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
    rows = (row.split(" | ") for row in re.findall("^\\| diffsurrogate/.*", text, re.MULTILINE))
    usual, changed = sorted(rows, key=lambda row: row[5])  # by seeds
    assert usual[:4] == changed[:4] == ["| diffsurrogate/cartpole-swingup", "1", "shac", "mlp"]
    assert (usual[5], changed[5]) == ("1, 2", "4")
    assert "shac.gamma=0.9" in changed[4]
    assert usual[4] == "as above"
    assert "Not finished: unfinished" in text
    assert "No configuration of ours: foreign" in text
    assert "Without its curve: second, as" in text
    assert "second/metrics.csv is damaged in line" in text
    assert main(["report", str(tmp_path / "unfinished")]) == 0
    assert "No finished run.\n\nNot finished: unfinished" in capsys.readouterr().out
    assert main(["report", str(run), "--out", str(run / "config.json")]) == 2
    assert "report.md cannot be written" in capsys.readouterr().err
    page = (tmp_path / "report.html").read_text()
    assert "<td>1, 2</td>" in page
    assert "shac.gamma=0.9" in page
    assert page.count("data:image/png;base64,") == 1  # curves
    assert page.count("data:image/gif;base64,") == 1  # the film of the run that has one
    assert "http" not in page
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")
    assert (tmp_path / "report.png").stat().st_size > 1000


def test_check_gradients_tells_good_from_missing(capsys):
    assert main(["check-gradients", "diffsurrogate/cartpole-swingup", "--num-envs", "7"]) == 0
    command = ["check-gradients", "paper/dispersion", "--num-envs", "7", "--agents", "2"]
    assert main(command) == 1
    assert "all-zero" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("limit", "stopped"), [("--cpu-limit", "CPU limit"), ("--time-limit", "time limit")]
)
def test_a_limit_does_not_forgo_the_last_evaluation(limit, stopped, tmp_path):
    out = tmp_path / "run"
    assert main([*CARTPOLE, *steps(9), limit, "1e-6", "--out", str(out)]) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert summary["stopped"] == stopped
    with (out / "metrics.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [int(float(row["update"])) for row in rows] == [0, 1]
    returns = [float(row["evaluation_mean_return"]) for row in rows]
    assert summary["best_policy"]["update"] == returns.index(max(returns))


def test_a_run_stopped_in_its_last_update_ends_as_one_that_was_not(trained, tmp_path, monkeypatch):
    iterate, out = SHAC.iterate, tmp_path / "run"

    def stopped(agent):
        if agent.iteration == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return iterate(agent)

    with monkeypatch.context() as patch:
        patch.setattr(SHAC, "iterate", stopped)
        assert main([*CARTPOLE, *steps(2), "--seed", "1", "--out", str(out)]) == 130
    assert main(["train", "--resume", "--out", str(out)]) == 0
    for name in ("evaluation_mean_return", "reward"):
        one, other = (
            [row.get(name) for row in RunFolder(path).metrics()] for path in (trained, out)
        )
        assert one == other
    one, other = (RunFolder(path).summary()["best_policy"] for path in (trained, out))
    assert {**one, "cpu_seconds": 0} == {**other, "cpu_seconds": 0}


def test_a_closed_pipe_is_no_error(tmp_path):
    command = [sys.executable, "-m", "diffsurrogate", "train", "shac++", "paper/dispersion", "-h"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""


def test_a_finished_run_can_be_prolonged_but_not_changed(tmp_path, capsys):
    out = str(tmp_path / "run")
    changed = ["--seed", "3", "--shac.actor.net.hidden", "8"]
    assert main([*CARTPOLE, *changed, *steps(2), "--out", out]) == 0
    again = ["train", "--resume", "--out", out, "--no-progress"]
    assert main([*again, *steps(3)]) == 0
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["updates"] == 3
    assert main([*CARTPOLE, *changed, *again[1:]]) == 0  # all repeated; steps(3) are kept
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["updates"] == 3
    capsys.readouterr()
    given = ["--seed", "0", "--shac.horizon", "4", "--shac.actor.net.hidden", "64", "64"]
    texts = ["seed 3, not 0", "shac.horizon 3, not 4", "shac.actor.net.hidden (8,), not (64, 64)"]
    for text, options in zip(texts, (given[:2], given[2:4], given[4:]), strict=True):
        assert main([*again, *options]) == 2  # though 0 is the default
        assert f"has {text};" in capsys.readouterr().err
    assert main(["train", "shac++", *again[1:]]) == 2
    assert "has method shac, not shac++" in capsys.readouterr().err
    assert main(["train", "--resume"]) == 2
    assert "--out" in capsys.readouterr().err


def test_a_resumed_run_is_not_called_finished(run, monkeypatch):
    monkeypatch.setattr(SHAC, "iterate", lambda agent: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["train", "--resume", "--out", str(run), *steps(5)])
    assert not (run / "summary.json").exists()


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
    run, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    file = run / "checkpoints" / "last.pt"
    again = ["train", "--resume", "--out", str(run), *steps(5)]
    file.write_bytes(file.read_bytes()[:-500])
    assert main(again) == 2
    assert "truncated" in capsys.readouterr().err
    file.write_bytes(pickle.dumps(Bomb()))
    assert main(again) == 2
    torch.save({"format": "diffsurrogate-checkpoint", "version": 1, "state": Bomb()}, file)
    assert main(again) == 2
    torch.save({"weights": torch.zeros(3)}, file)
    assert main(again) == 2
    assert "is not a checkpoint of diffsurrogate" in capsys.readouterr().err
    assert not (tmp_path / "exploded").exists()


def test_commands_refuse_weights_that_are_not_finite(run, capsys):
    file = run / "checkpoints" / "last.pt"
    state = load_checkpoint(file)
    weights = (state["agent"]["parts"]["actor"], state["agent"]["predictor"])
    for one in weights:
        next(value for name, value in one.items() if name.endswith("weight"))[0] = torch.nan
    save_checkpoint(file, state)
    out = ["--out", str(run), *steps(5)]
    for command in (["train", "--resume", *out], ["evaluate", str(run)], ["render", str(run)]):
        assert main(command) == 2
        assert "is not finite: " in capsys.readouterr().err


def test_a_second_training_in_one_folder_is_refused_while_others_may_read(run, capsys):
    again = ["train", "--resume", "--out", str(run), "--no-progress"]
    lock = FolderLock(run, "training")
    assert main([*again, *steps(3)]) == 2
    told = capsys.readouterr().err
    assert f"another training (process {os.getpid()}) is at work in {run}; wait" in told
    assert main(["evaluate", str(run), "--num-envs", "3", "--steps", "2"]) == 0
    lock.close()
    assert main([*again, *steps(3)]) == 0


def test_lost_metrics_are_mended_or_named_when_a_run_goes_on(run, capsys):
    again = ["train", "--resume", "--out", str(run), "--no-progress"]
    files = [run / "metrics.csv", run / "checkpoints" / "metrics.csv"]
    whole = files[0].read_bytes()
    files[0].write_bytes(whole[:-30])
    assert main(again) == 0  # it is finished
    assert files[0].read_bytes() == whole
    assert "warning" not in capsys.readouterr().err
    for file in files:
        file.unlink()
    assert main([*again, *steps(3)]) == 0
    assert "have lost the rows of updates 0 to 2; " in capsys.readouterr().err
    with files[0].open() as stream:
        assert [float(row["update"]) for row in csv.DictReader(stream)] == [3]


@pytest.mark.parametrize("name", ["last.pt", "best.pt"])
def test_a_run_that_has_lost_a_checkpoint_says_how_to_go_on(name, run, capsys):
    file = run / "checkpoints" / "last.pt"
    state = load_checkpoint(file)
    state["progress"]["history"][0]["mean_return"] = 1e9  # so that the best is another policy
    save_checkpoint(file, state)
    (run / "checkpoints" / name).unlink()
    (run / "summary.json").unlink()
    again = ["train", "--resume", "--out", str(run), "--no-progress", *steps(3)]
    assert main(again) == 2
    assert "copy" in capsys.readouterr().err
    other = "best.pt" if name == "last.pt" else "last.pt"
    shutil.copy(run / "checkpoints" / other, run / "checkpoints" / name)
    assert main(again) == 0


def test_checkpoints_of_another_format_version_are_named(tmp_path):
    file = tmp_path / "a.pt"
    torch.save({"format": "diffsurrogate-checkpoint", "version": 99, "state": {}}, file)
    with pytest.raises(UsageError, match="format 99"):
        load_checkpoint(file)
    torch.save({"format": "diffsurrogate-checkpoint", "version": 1, "state": {}}, file)
    with pytest.raises(UsageError, match=r"format 1, .* before format 2 only, see CHANGELOG"):
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


def test_several_seeds_are_trained_one_after_another_and_go_on(tmp_path):
    command = [*CARTPOLE, *steps(2)]
    assert main([*command, "--out", str(tmp_path), "--seeds", "3", "5"]) == 0
    assert main([*command, "--out", str(tmp_path / "alone"), "--seed", "5"]) == 0

    def weights(name: str) -> dict[str, torch.Tensor]:
        file = tmp_path / name / "checkpoints" / "last.pt"
        found: dict[str, torch.Tensor] = load_checkpoint(file, "cpu")["agent"]["predictor"]
        return found

    first, second, alone = weights("seed-3"), weights("seed-5"), weights("alone")
    assert all(torch.equal(second[name], alone[name]) for name in alone)
    assert not all(torch.equal(first[name], alone[name]) for name in alone)
    more = ["--out", str(tmp_path), "--resume", "--seeds", "3", "5", "7", *steps(3)]
    assert main([*CARTPOLE, *more]) == 0
    summaries = [RunFolder(tmp_path / f"seed-{seed}").summary() or {} for seed in (3, 5, 7)]
    assert [(s["seed"], s["updates"]) for s in summaries] == [(3, 3), (5, 3), (7, 3)]


@pytest.mark.parametrize("seeds", [["1", "1"], ["-1"], ["1", "--seed", "2"], []])
def test_bad_seeds_are_refused(seeds, tmp_path, capsys):
    assert main([*CARTPOLE, "--out", str(tmp_path / "x"), "--seeds", *seeds]) == 2
    assert "--seeds " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({"normalised_return": 0.5, "mean_return": 5.0}, "normalised return 0.500"),
        ({"normalised_return": None, "mean_return": -5.0}, "return -5.0"),
        (
            {"normalised_return": None, "mean_return": -5.0, "info/is_success": 0.25},
            "return -5.0, success 25%",
        ),
    ],
)
def test_an_evaluation_is_told_in_few_words(row, text):
    assert _text(row) == text

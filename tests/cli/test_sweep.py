"""`sweep`: what it searches, trials that go on, what it leaves."""

import csv
import sys

import pytest
import yaml

from diffsurrogate.__main__ import main
from diffsurrogate.cli.arguments import read_train
from diffsurrogate.cli.options import TrainOptions
from diffsurrogate.cli.sweep import command
from diffsurrogate.cli.sweep.space import Dimension, read_space, usual_space
from diffsurrogate.cli.sweep.study import Study
from diffsurrogate.errors import UsageError
from diffsurrogate.presets.recipe import Method
from diffsurrogate.training.run_folder import RunFolder

pytest.importorskip("optuna")
PENDULUM = ["ppo", "gymnasium/Pendulum-v1"]
SPACE = ("ppo.clip.lr=1e-4:1e-2:log", "ppo.clip.epochs=1:3", "ppo.clip.advantage=individual,shared")
SMALL = [
    "--total-steps",
    "128",
    "--num-envs",
    "4",
    "--ppo.horizon",
    "8",
    "--eval-envs",
    "2",
    "--max-steps",
    "20",
]


def sweep(out, *more, trials=2, space=SPACE):
    arguments = ["--search", *space, "--trials", str(trials), "--evaluations", "2", *more]
    return main(["sweep", *PENDULUM, *arguments, "--out", str(out), "--", *SMALL])


def rows(out):
    with (out / "trials.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("method", ["shac", "shac++", "ppo", "mappo", "bppo", "sb3-ppo", "sb3-sac"])
def test_every_method_has_options_that_are_usually_searched(method: Method):
    env = "mujoco/HalfCheetah-v5"
    options = TrainOptions.recommended(method, env)
    texts = usual_space(options)
    assert len(texts) >= 2
    read_space(texts, [method, env])


def test_a_range_is_of_whole_numbers_where_the_option_is():
    epochs, weight = read_space(["ppo.clip.epochs=1:3", "ppo.clip.entropy-weight=0:1"], PENDULUM)
    assert (epochs.whole, epochs.ends) == (True, ("1", "3"))
    assert (weight.name, weight.whole, weight.ends) == (
        "ppo.clip.entropy_weight",
        False,
        ("0.0", "1.0"),
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ppo.clip.lr", "give NAME=LOW:HIGH"),
        ("ppo.clip.lr=1e-4:x", "give NAME=LOW:HIGH"),
        ("ppo.clip.lr=1:2:linear", "give NAME=LOW:HIGH"),
        ("ppo.clip.lr=2:1", "LOW < HIGH"),
        ("ppo.clip.lr=0:1:log", "0 < LOW < HIGH on a logarithmic scale"),
        ("ppo.clip.lr=-1:1", "lr is -1.0; it must be at least 0"),
        ("ppo.clip.lrr=0:1", "did you mean --ppo.clip.lr?"),
        ("ppo.clip.lr=1e-4:inf", "LOW < HIGH, finite"),
        ("ppo.clip.lr=1e-4,,1e-3", "does not take an empty word"),
        ("ppo.clip.epochs=1.5:3", "does not take 1.5"),
        ("seed=0,1", "seed, which sweep decides"),
        ("--eval-every=1:3", "eval-every, which sweep decides"),
        ("ppo.clip.advantage=own,shared", "does not take own"),
    ],
)
def test_a_search_that_cannot_work_is_refused_before_anything_is_trained(text, words):
    with pytest.raises(UsageError, match="--search") as refused:
        read_space([text], PENDULUM)
    assert words in str(refused.value)


def test_a_dimension_stands_once():
    with pytest.raises(UsageError, match=r"has ppo\.clip\.lr twice"):
        read_space(["ppo.clip.lr=0:1", "ppo.clip.lr=0:2"], PENDULUM)


def test_what_a_sweep_decides_cannot_be_given_to_trainings(tmp_path, capsys):
    assert main(["sweep", *PENDULUM, "--out", str(tmp_path), "--", "--seed", "1"]) == 2
    assert "--seed after -- is what sweep decides" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        (["--num-envs", "4"], "behind --: -- --max-steps 9 --num-envs 4"),
        (["--ppo.clip.lr=1e-3"], "behind --: -- --max-steps 9 --ppo.clip.lr=1e-3"),
        (["--trails", "4"], "did you mean '--trials'?"),
        (["--seed", "1"], "did you mean '--seeds'?"),
        (["acrobot"], "sweep has no argument acrobot;"),
    ],
)
def test_options_of_train_go_behind_the_dashes(words, advice, capsys):
    assert main(["sweep", *PENDULUM, *words, "--", "--max-steps", "9"]) == 2
    assert advice in capsys.readouterr().err


def test_a_seed_stands_once(tmp_path, capsys):
    assert sweep(tmp_path, "--seeds", "0", "0") == 2
    assert "each once" in capsys.readouterr().err


def test_a_sweep_stopped_in_its_first_trial_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "train", lambda *_: 130)
    assert sweep(tmp_path) == 130
    assert "repeat the command to go on" in capsys.readouterr().out


def test_a_sweep_that_went_on_found_what_one_in_one_go_finds(tmp_path, monkeypatch, capsys):
    """A trial that was killed after an evaluation goes on, and the same values are tried."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert sweep(whole, "--no-prune") == 0
    assert sweep(parts, "--no-prune", trials=1) == 0
    train, seen = command.train, []

    def killed(options, worthwhile):
        def die(row):
            seen.append(row["env_steps"])
            assert worthwhile(row)
            if len(seen) == 2:
                raise KeyboardInterrupt
            return True

        return train(options, die)

    monkeypatch.setattr(command, "train", killed)
    assert sweep(parts, "--no-prune") == 130
    monkeypatch.setattr(command, "train", train)
    capsys.readouterr()
    assert sweep(parts, "--no-prune") == 0
    assert rows(parts) == rows(whole)
    assert [row["state"] for row in rows(parts)] == ["complete"] * 2
    said = capsys.readouterr()
    assert "trial 1: " in said.out
    assert "already reported" not in said.err


def test_the_best_trial_can_be_trained_from_its_file(tmp_path, capsys):
    out = tmp_path / "sweep"
    assert sweep(out) == 0
    best = max(rows(out), key=lambda row: float(row["value"]))
    assert {file.name for file in out.glob("*.png")} == {"history.png", "importance.png"}
    capsys.readouterr()
    assert main(["report", str(out)]) == 0
    first, common, head, _, *table = filter(None, capsys.readouterr().out.splitlines())
    lr = f"ppo.clip.lr={float(best['ppo.clip.lr']):.4g}"
    assert f"sweep of 2 trials; the best is trial {best['trial']} with " in first
    assert lr in first and "total_steps=128" in common
    assert sum(lr in row for row in table) == 1 and "total_steps" not in head + "".join(table)
    settings = yaml.safe_load((out / "best.yaml").read_text())
    assert settings["ppo"]["clip"]["lr"] == float(best["ppo.clip.lr"])
    again = tmp_path / "again"
    more = ["--out", str(again), "--film-steps", "0", "--no-progress"]
    assert main(["train", "--config", str(out / "best.yaml"), *more]) == 0
    summary = RunFolder(again).summary()
    assert summary is not None
    assert summary["mean_return"] == float(best["value"])
    assert main(["sweep", *PENDULUM, "--out", str(out), "--search", SPACE[0]]) == 2
    assert "has command" in capsys.readouterr().err


def test_a_sweep_does_not_go_into_the_folder_of_a_run(tmp_path, capsys):
    (tmp_path / "config.json").write_text("{}")
    assert sweep(tmp_path) == 2
    assert "is the folder of a run" in capsys.readouterr().err


def test_a_trials_value_is_the_mean_over_seeds(tmp_path):
    assert sweep(tmp_path, "--seeds", "3", "5", trials=1) == 0
    folders = [tmp_path / "trials" / "0" / f"seed-{seed}" for seed in (3, 5)]
    summaries = [RunFolder(folder).summary() for folder in folders]
    assert [s["seed"] for s in summaries] == [3, 5]
    mean = sum(s["mean_return"] for s in summaries) / 2
    assert float(rows(tmp_path)[0]["value"]) == mean


@pytest.fixture
def study(tmp_path):
    space = [Dimension.parse("ppo.clip.lr=1e-4:1e-2", {})]
    return Study(tmp_path, space, {}, seed=0, warm_up=1, prune=True)


def test_a_sweep_keeps_its_file_in_a_folder_of_any_name(tmp_path):
    folder = tmp_path / "lr? {a} #1 50%20"
    space = [Dimension.parse("ppo.clip.lr=1e-4:1e-2", {})]
    study = Study(folder, space, {}, seed=0, warm_up=1, prune=False)
    study.tell(study.next(1), 1.0)
    assert (folder / "study.db").is_file()
    assert list(tmp_path.iterdir()) == [folder]


def test_a_trial_behind_the_median_is_pruned(study):
    for value in (1.0, 2.0, 3.0, 4.0, 5.0):
        trial = study.next(9)
        assert not trial.is_bad(0.0, 0)
        assert not trial.is_bad(value, 2)
        study.tell(trial, value)
    trial = study.next(9)
    assert not trial.is_bad(-9.0, 0)  # too early
    assert not trial.is_bad(3.1, 2)
    trial = study.next(9)
    assert trial.is_bad(2.9, 2)
    study.tell(trial, 2.9)
    assert study.best.value == 5.0
    assert [t.state.name for t in study.trials][-2:] == ["RUNNING", "PRUNED"]


def test_a_trial_under_way_is_not_taken_twice(study):
    first, second = study.next(2), study.next(2)
    assert (first.number, second.number) == (0, 1)
    assert study.next(2) is None
    first.lock.close()  # as when its process dies
    assert study.next(2).number == 0


def test_a_return_that_is_no_number_is_a_failure_and_three_end_the_sweep(study):
    for _ in range(3):
        study.tell(study.next(9), float("nan"))
    with pytest.raises(UsageError, match="first 3 trials failed, the last with: its return is nan"):
        study.next(9)


def test_the_table_is_there_while_trials_run(study):
    with study.told_of():
        study.tell(study.next(2), 1.0)
        study.next(2).lock.close()
    assert [row["state"] for row in rows(study.folder)] == ["complete", "running"]


def test_without_optuna_the_extra_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert sweep(tmp_path / "none") == 2
    assert 'pip install "diffsurrogate[sweep]"' in capsys.readouterr().err


def test_settings_of_a_trial_are_those_of_the_command(tmp_path):
    options = command.SweepOptions(method="ppo", env="gymnasium/Pendulum-v1", extra=tuple(SMALL))
    assert options.folder.parts == ("runs", "sweep-ppo-gymnasium-Pendulum-v1")
    assert read_train(options.words).total_steps == 128


def test_a_training_that_fails_does_not_end_the_sweep(tmp_path, capsys):
    """Dico is for continuous actions, which only making the trainer finds out."""
    command = ["sweep", "ippo", "gymnasium/CartPole-v1", "--search", "network=shared,dico"]
    command += [
        "--trials",
        "5",
        "--sampler-seed",
        "1",
        "--evaluations",
        "1",
        "--out",
        str(tmp_path),
    ]
    small = ["--total-steps", "32", "--num-envs", "2", "--eval-envs", "1", "--ppo.horizon", "16"]
    assert main([*command, "--out", str(tmp_path), "--", *small]) == 0
    states = {row["network"]: row["state"] for row in rows(tmp_path)}
    assert states == {"shared": "complete", "dico": "failed"}
    assert "failed: UsageError: net is a DiCoConfig" in capsys.readouterr().out

"""Callbacks of `learn`, and what loggers get."""

import json
import sys

import pytest
from toys.reach import ENVS, HORIZON, Reach, config

from diffsurrogate import (
    PPO,
    CheckpointCallback,
    EvalCallback,
    LearnedDiffWrapper,
    LogCallback,
    MLflowLogger,
    ObservationHistory,
    WandbLogger,
)
from diffsurrogate.__main__ import main
from diffsurrogate.algorithms.shac import SHAC
from diffsurrogate.errors import UsageError
from diffsurrogate.training.evaluate import evaluate
from diffsurrogate.training.run_folder import RunFolder

WINDOW = ENVS * HORIZON


def agent() -> SHAC:
    return SHAC(Reach(), config(), seed=0)


class Remember:
    """Keeps what a logger gets."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, dict[str, float]]] = []
        self.closed = 0

    def log(self, update: int, metrics: dict[str, float]) -> None:
        self.rows.append((update, dict(metrics)))

    def close(self) -> None:
        self.closed += 1


def test_an_evaluation_is_that_of_evaluate_and_later_loggers_see_it():
    judge, log = EvalCallback(Reach(num_envs=5), every=2, seed=3), Remember()
    trained = agent().learn(5 * WINDOW, [judge, LogCallback(log)])
    assert [row["update"] for row in judge.history] == [0, 2, 4]
    assert [update for update, _ in log.rows] == [1, 2, 3, 4, 5]
    told = [row.get("evaluation_mean_return") for _, row in log.rows]
    second, fourth = (row["mean_return"] for row in judge.history[1:])
    assert told == [None, second, None, fourth, None]
    assert log.closed == 1
    trained.learn(6 * WINDOW, judge)
    now = evaluate(trained.predict, Reach(num_envs=5), seed=3)
    assert judge.history[-1]["mean_return"] == now.mean_return
    assert judge.history[-1]["env_steps"] == 6 * WINDOW


def test_it_stops_at_a_return_and_keeps_the_best(tmp_path):
    judge = EvalCallback(Reach(num_envs=5), every=1, stop_at_return=-1e9, best=tmp_path / "best.pt")
    trained = agent().learn(9 * WINDOW, judge)
    assert trained.iteration == 1
    best = max(judge.history, key=lambda row: row["mean_return"])
    kept = SHAC.load(tmp_path / "best.pt", Reach())
    assert kept.iteration == best["update"]


def test_the_env_that_is_trained_on_is_not_evaluated_on():
    env = Reach()
    with pytest.raises(UsageError, match="make another one"):
        SHAC(env, config()).learn(WINDOW, EvalCallback(env))


def test_nor_is_one_evaluated_on_around_the_same_simulator():
    env = Reach()
    around = LearnedDiffWrapper(ObservationHistory(env, steps=2))
    for other in (env, ObservationHistory(env, steps=3)):
        with pytest.raises(UsageError, match="make another one"):
            PPO(around).learn(WINDOW, EvalCallback(other))


def test_a_checkpoint_stands_at_the_end_and_training_goes_on_from_it(tmp_path):
    file = tmp_path / "last.pt"
    agent().learn(3 * WINDOW, CheckpointCallback(file, every=2))
    gone_on = SHAC.load(file, Reach())
    assert gone_on.iteration == 3
    gone_on.learn(5 * WINDOW)
    whole = agent().learn(5 * WINDOW)
    for one, other in zip(gone_on.actor.parameters(), whole.actor.parameters(), strict=True):
        assert one.equal(other)


def test_an_error_leaves_the_last_checkpoint_and_closes_loggers(tmp_path):
    file, log = tmp_path / "last.pt", Remember()

    def breaks(trainer: SHAC, metrics: dict[str, float]) -> None:
        if trainer.iteration == 3:
            raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        agent().learn(5 * WINDOW, [CheckpointCallback(file, every=2), LogCallback(log), breaks])
    assert SHAC.load(file, Reach()).iteration == 2
    assert log.closed == 1


@pytest.mark.parametrize("wrong", [EvalCallback, [print, EvalCallback]])
def test_what_is_no_callback_is_refused(wrong):
    with pytest.raises(UsageError, match=r"EvalCallback\(env\)"):
        agent().learn(WINDOW, wrong)


def test_a_run_folder_is_a_logger(tmp_path):
    folder = RunFolder.create(tmp_path / "run", {"env": "reach"})
    agent().learn(2 * WINDOW, LogCallback(folder))
    rows = RunFolder.open(tmp_path / "run").metrics()
    assert [row["update"] for row in rows] == [1, 2]
    assert list((tmp_path / "run").glob("events.out.tfevents*"))


def test_weights_and_biases_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    logger = WandbLogger(
        "reach", name="one", run_id="run-1", config={"a": {"b": 1}}, folder=tmp_path, mode="offline"
    )
    steps = []
    agent().learn(
        3 * WINDOW, [LogCallback(logger), lambda *_: steps.append(logger.run.summary["env_steps"])]
    )
    assert steps == [WINDOW, 2 * WINDOW, 3 * WINDOW]
    (run,) = (tmp_path / "wandb").glob("offline-run-*-run-1")
    assert logger.run.config["a"] == {"b": 1}
    assert list(run.glob("*.wandb"))


def test_mlflow_in_a_folder(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    uri = f"file:{tmp_path}/runs"
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE", raising=False)
    with pytest.raises(UsageError, match="MLFLOW_ALLOW_FILE_STORE=true"):
        MLflowLogger(name="one", tracking_uri=uri)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    for updates in (2, 3):  # a run of the same name goes on
        logger = MLflowLogger(name="one's", config={"a": {"b": 1}}, tracking_uri=uri)
        trained = agent().learn(updates * WINDOW, LogCallback(logger))
    found = mlflow.MlflowClient(uri).get_run(logger.run_id)
    assert found.info.status == "FINISHED"
    assert found.data.params == {"a.b": "1"}
    assert found.data.metrics["env_steps"] == trained.env_steps
    history = mlflow.MlflowClient(uri).get_metric_history(logger.run_id, "env_steps")
    assert [point.step for point in history] == [1, 2, 1, 2, 3]


def test_the_command_line_logs_to_both(tmp_path, monkeypatch, capsys):
    pytest.importorskip("wandb")
    mlflow = pytest.importorskip("mlflow")
    from diffsurrogate.__main__ import main

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path}/mlruns")
    run = tmp_path / "run"
    short = ["--num-envs", "2", "--ppo.horizon", "4", "--eval-envs", "2", "--eval-steps", "3"]
    start = ["train", "ppo", "gymnasium/Pendulum-v1", *short, "--film-steps", "0"]
    start += ["--total-steps", "8", "--out", str(run), "--log-to", "wandb", "mlflow"]
    assert main(start) == 0
    assert main(["train", "--resume", "--out", str(run), "--total-steps", "16"]) == 0
    client = mlflow.MlflowClient(f"file:{tmp_path}/mlruns")
    experiment = client.get_experiment_by_name("diffsurrogate")
    (found,) = client.search_runs([experiment.experiment_id])
    points = client.get_metric_history(found.info.run_id, "evaluation_mean_return")
    assert [point.step for point in points] == [0, 1, 2]
    assert json.loads((run / "config.json").read_text())["log_to"] == ["wandb", "mlflow"]
    assert len(list((run / "wandb").glob("offline-run-*"))) == 2


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_missing_logger_is_named_before_anything_is_trained(name, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, name, None)
    start = ["train", "shac", "diffsurrogate/cartpole-swingup", "--total-steps", "8"]
    assert main([*start, "--out", str(tmp_path / "run"), "--log-to", name]) == 2
    assert f"pip install 'diffsurrogate[{name}]'" in capsys.readouterr().err
    assert not list((tmp_path / "run").glob("checkpoints/*"))

"""The run folder: no row twice, none lost, whatever moment a kill comes."""

import pytest

from diffsurrogate.errors import UsageError
from diffsurrogate.training.run_folder import RunFolder, read_json


@pytest.fixture
def folder(tmp_path):
    run = RunFolder.create(tmp_path / "run", {"seed": 3})
    yield run
    run.close()


def test_columns_may_come_later(folder):
    folder.log(1, {"loss": 0.5})
    folder.log(2, {"loss": 0.25, "score": 7.0})
    folder.log(3, {"loss": 0.125})
    assert folder.metrics() == [
        {"update": 1, "loss": 0.5},
        {"update": 2, "loss": 0.25, "score": 7},
        {"update": 3, "loss": 0.125},
    ]
    header, *rows = (folder.path / "metrics.csv").read_text().splitlines()
    assert header == "update,loss,score"
    assert rows == ["1.0,0.5,", "2.0,0.25,7.0", "3.0,0.125,"]


def test_a_row_cut_short_by_a_kill_is_dropped(folder):
    folder.log(1, {"loss": 1.0})
    with (folder.path / "metrics.csv").open("a") as stream:
        stream.write("2.0,0.1")  # of 0.125, say
    assert folder.metrics() == [{"update": 1, "loss": 1}]
    folder.rewind(1)
    folder.log(2, {"loss": 0.125})
    assert [row["loss"] for row in folder.metrics()] == [1, 0.125]


def test_a_run_without_a_checkpoint_starts_over(folder):
    folder.log(1, {"loss": 1.0})
    folder.rewind(0)
    assert folder.metrics() == []
    with pytest.raises(UsageError, match="no checkpoint"):
        folder.load("cpu")


@pytest.mark.parametrize("text", ['{"a": 1', "[1]", ""], ids=["cut short", "a list", "empty"])
def test_damaged_json_is_refused(tmp_path, text):
    file = tmp_path / "config.json"
    file.write_text(text)
    with pytest.raises(UsageError, match="restore it"):
        read_json(file)

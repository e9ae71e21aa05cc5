"""The run folder: no row twice, none lost, whatever moment a kill comes."""

import errno
import os
import signal

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from diffsurrogate.errors import UsageError
from diffsurrogate.training.lock import FolderLock
from diffsurrogate.training.run_folder import RunFolder, read_json, write_text


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


def forked(do) -> int:
    """Fork a process that does something and then waits to be killed; return its number."""
    ready, done = os.pipe()
    child = os.fork()
    if child == 0:
        do()
        os.write(done, b".")
        signal.pause()
    os.close(done)
    assert os.read(ready, 1) == b"."
    os.close(ready)
    return child


def kill(child: int) -> None:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def test_a_lock_is_let_go_by_a_kill_and_not_before(tmp_path):
    child = forked(lambda: FolderLock(tmp_path, "training"))
    try:
        with pytest.raises(UsageError, match=rf"another training \(process {child}\) is at work"):
            FolderLock(tmp_path, "training")
    finally:
        kill(child)
    FolderLock(tmp_path, "training").close()


def test_a_worker_that_outlives_its_parent_holds_no_lock(tmp_path):
    lock = FolderLock(tmp_path, "training")
    worker = forked(lambda: None)
    try:
        lock.close()
        FolderLock(tmp_path, "training").close()
    finally:
        kill(worker)


def test_one_of_two_runs_that_start_at_once_is_refused(folder, tmp_path):
    with pytest.raises(UsageError, match="not overwritten"):
        RunFolder.create(folder.path, {"seed": 5})
    other = tmp_path / "other"
    lock = FolderLock(other, "training")  # it has not written its config.json yet
    with pytest.raises(UsageError, match=f"process {os.getpid()}"):
        RunFolder.create(other, {"seed": 5})
    lock.close()
    (other / ".config.json.123.partial").write_text("{")  # it was killed in its first write
    RunFolder.create(other, {"seed": 5}).close()
    assert read_json(other / "config.json") == {"seed": 5}


ROWS = [{"loss": 0.5}, {"loss": 0.25, "score": 7.0}, {"loss": 0.125}]


def test_metrics_cut_at_any_byte_are_mended_from_their_copy_and_the_other_way(folder):
    for update, row in enumerate(ROWS):
        folder.log(update, row)
    files = [folder.path / "metrics.csv", folder.path / "checkpoints" / "metrics.csv"]
    whole = files[0].read_bytes()
    assert files[1].read_bytes() == whole
    for file in files:
        for size in range(len(whole)):
            file.write_bytes(whole[:size])
            assert folder.rewind(2) == []
            assert [f.read_bytes() for f in files] == [whole, whole]
        file.unlink()
        assert folder.rewind(2) == []
        assert [f.read_bytes() for f in files] == [whole, whole]


def test_metrics_that_both_files_have_lost_are_named(folder):
    for update, row in enumerate(ROWS):
        folder.log(update, row)
    for file in folder.path.rglob("metrics.csv"):
        file.write_bytes(file.read_bytes().replace(b"1.0,0.25", b"1.0,0.\xff5"))
    with pytest.raises(UsageError, match="damaged in line 3"):
        folder.metrics()
    assert folder.rewind(3) == [1, 3]
    assert [row["update"] for row in folder.metrics()] == [0, 2]


def test_tensorboard_forgets_what_is_repeated(folder):
    for update, row in enumerate(ROWS):
        folder.log(update, row)
    folder.rewind(1)
    folder.log(2, {"loss": 9.0})
    events = EventAccumulator(str(folder.path)).Reload()
    found = {event.step: event.value for event in events.Scalars("loss")}
    assert found == {0: 0.5, 1: 0.25, 2: 9.0}


def test_a_full_disk_leaves_the_checkpoint_before(folder, monkeypatch):
    folder.save({"x": 1})

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UsageError, match=r"last\.pt cannot be written .* No space left"):
        folder.save({"x": 2})
    assert folder.load("cpu") == {"x": 1}
    assert [file.name for file in (folder.path / "checkpoints").iterdir()] == ["last.pt"]


def test_a_file_where_a_folder_is_needed_is_told_in_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"x\.md cannot be written .* File exists"):
        write_text(tmp_path / "file" / "x.md", "text")


def test_what_a_kill_left_of_a_file_is_removed(folder):
    (folder.path / "checkpoints").mkdir()
    left = folder.path / "checkpoints" / ".last.pt.123.partial"
    left.write_text("half")
    folder.reopen({"seed": 3}, finished=True)
    assert not left.exists()

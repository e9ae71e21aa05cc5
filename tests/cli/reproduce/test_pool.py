"""Calls and runs on a Ray cluster: processes that are killed, a node that is lost, signals."""

import os
import shlex
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
from toys.grid_runs import small_grid
from toys.processes import needs_ray, wait_for_updates

from diffsurrogate.__main__ import main
from diffsurrogate.cli.reproduce import pool as module
from diffsurrogate.cli.reproduce.logged_run import train_logged
from diffsurrogate.cli.reproduce.pool import Call, ProcessLost, RayPool
from diffsurrogate.errors import UsageError
from diffsurrogate.training.checkpoint import load_checkpoint
from diffsurrogate.training.lock import FolderInUse, FolderLock

NODE = {"object_store_memory": 75 * 1024**2, "include_dashboard": False}


@pytest.fixture(scope="module")
def cluster():
    """Two nodes with a core each."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **NODE})
    cluster.add_node(num_cpus=1, **NODE)
    yield cluster
    cluster.shutdown()


def wait_until(ready):
    deadline = time.monotonic() + 600
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def results_of(pool, calls, started=lambda: None):
    results, said = {}, []
    pool.run(calls, started, lambda call, result: results.update({call.name: result}), said.append)
    return results, said


def nothing():
    pass


def listener():
    """Return a function that Ray sends by value, as its workers cannot import this module."""

    def listen(ready, stopped):
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's & ignores it
        try:
            ready.touch()
            while True:
                time.sleep(0.01)
        except KeyboardInterrupt:
            stopped.touch()

    return listen


@needs_ray
def test_a_call_is_repeated_where_its_process_was_killed_but_not_for_ever(
    cluster, tmp_path, monkeypatch
):
    def die(tries):
        with tries.open("a") as stream:
            stream.write("x")
        os.kill(os.getpid(), signal.SIGKILL)

    def die_once(mark):
        if mark.exists():
            return os.environ["OMP_NUM_THREADS"]
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)

    def fail():
        raise UsageError("by itself")

    monkeypatch.setattr(module, "RETRIES", 1)
    tries = tmp_path / "tries"
    calls = [
        Call(name="dies", function=die, arguments=(tries,)),
        Call(name="died", function=die_once, arguments=(tmp_path / "mark",)),
        Call(name="fails", function=fail, arguments=()),
    ]
    results, said = results_of(RayPool(None, cluster.address), calls)
    assert isinstance(results["dies"], ProcessLost)
    assert tries.read_text() == "xx"
    assert results["died"] == "1"
    assert isinstance(results["fails"], UsageError) and str(results["fails"]) == "by itself"
    assert sorted(line.split(":")[0] for line in said) == ["died", "dies"]
    assert all("died unexpectedly" in line and "repeating it (1/1)" in line for line in said)


@needs_ray
def test_a_first_signal_interrupts_calls_and_a_second_kills_them(cluster, tmp_path):
    def ignore(ready):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        ready.touch()
        time.sleep(600)

    ready, stopped = [tmp_path / "0", tmp_path / "1"], tmp_path / "stopped"

    def press():
        wait_until(lambda: all(one.exists() for one in ready))
        os.kill(os.getpid(), signal.SIGTERM)
        wait_until(stopped.exists)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=press).start()
    pool = RayPool(2, cluster.address)
    calls = [
        Call(name="listens", function=listener(), arguments=(ready[0], stopped)),
        Call(name="ignores", function=ignore, arguments=(ready[1],)),
        Call(name="never", function=nothing, arguments=()),
    ]
    results, said = results_of(pool, calls)
    assert pool.signal == signal.SIGTERM
    assert set(results) == {"listens", "ignores"} and results["listens"] is None
    assert not said


@needs_ray
def test_an_error_of_ours_interrupts_calls(cluster, tmp_path):
    ready, stopped = tmp_path / "ready", tmp_path / "stopped"

    def started():
        wait_until(ready.exists)
        raise RuntimeError("ours")

    calls = [Call(name="listens", function=listener(), arguments=(ready, stopped))]
    with pytest.raises(RuntimeError, match="ours"):
        results_of(RayPool(1, cluster.address), calls, started)
    assert stopped.exists()


@needs_ray
def test_a_run_goes_on_where_its_process_dies_and_ctrl_c_leaves_a_whole_checkpoint(
    cluster, tmp_path, capsys
):
    out, refusals = tmp_path / "grid", []
    run = out / "default" / "dispersion-1-shac++-mlp-1"

    def faults():
        wait_for_updates(run, 2)
        os.kill(int((run / ".lock").read_text()), signal.SIGKILL)
        wait_for_updates(run, len((run / "metrics.csv").read_text().splitlines()) + 2)
        try:
            FolderLock(out, "reproduce")
        except FolderInUse as error:
            refusals.append(str(error))
        os.kill(os.getpid(), signal.SIGINT)

    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in signals]
    thread = threading.Thread(target=faults)
    thread.start()
    assert main(small_grid(out, "--ray-address", cluster.address, updates=10_000)) == 130
    thread.join()
    assert [signal.getsignal(number) for number in signals] == before
    assert f"another reproduce (process {os.getpid()})" in refusals[0]
    assert not (run / "summary.json").exists()
    assert load_checkpoint(run / "checkpoints" / "last.pt")["agent"]["iteration"] > 0
    assert "stopped; continue with" in run.with_name(f"{run.name}.log").read_text()
    said = capsys.readouterr().out
    assert f"{run.name}: The worker died unexpectedly" in said
    assert "repeating it (1/3)" in said
    assert "0 of 2 runs finished; go on with:\n  diffsurrogate reproduce table1 --tasks" in said
    advice = shlex.split(said.splitlines()[-1])[1:]
    assert main([*advice[:2], "--dry-run", *advice[2:]]) == 0
    assert "1 interrupted, 1 new" in capsys.readouterr().out


@needs_ray
def test_a_call_is_repeated_on_another_node_where_its_own_is_lost(cluster, tmp_path):
    """Of two calls, on a node each."""

    def stay(starts, lost, head):
        (starts / str(os.getpid())).touch()
        while not lost.exists() or os.getppid() != head:
            time.sleep(0.01)
        return "here"

    starts, lost = tmp_path / "starts", tmp_path / "lost"
    starts.mkdir()
    head = cluster.head_node.all_processes["raylet"][0].process.pid

    def lose():
        wait_until(lambda: len(list(starts.iterdir())) == 2)
        (node,) = cluster.worker_nodes
        cluster.remove_node(node, allow_graceful=False)
        lost.touch()

    thread = threading.Thread(target=lose)
    thread.start()
    arguments = (starts, lost, head)
    calls = [Call(name=name, function=stay, arguments=arguments) for name in ("one", "two")]
    results, said = results_of(RayPool(2, cluster.address), calls)
    thread.join()
    assert results == {"one": "here", "two": "here"}
    assert len(list(starts.iterdir())) == 3
    (line,) = said
    assert "Task failed because the node it was running on is dead" in line
    assert line.endswith("repeating it (1/3)")


@needs_ray
def test_a_cluster_that_is_not_there_is_told_of():
    call = Call(name="call", function=nothing, arguments=())
    with pytest.raises(UsageError, match=r"no Ray cluster at 127.0.0.1:1 .*ray start --head"):
        results_of(RayPool(1, "127.0.0.1:1"), [call])


@needs_ray
def test_a_folder_too_long_for_rays_sockets_is_told_of(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / ("long" * 30)))
    (tmp_path / ("long" * 30)).mkdir()
    call = Call(name="call", function=nothing, arguments=())
    with pytest.raises(UsageError, match=r"Ray does not start .*TMPDIR=/tmp"):
        results_of(RayPool(1), [call])


@pytest.mark.parametrize("address", ["ray://127.0.0.1:10001", "auto", "head:"])
def test_other_addresses_are_refused(address):
    with pytest.raises(UsageError, match="give HOST:PORT"):
        RayPool(1, address)


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r'pip install "diffsurrogate\[ray\]"'):
        results_of(RayPool(1), [Call(name="call", function=nothing, arguments=())])
    assert results_of(RayPool(1), []) == ({}, [])


def test_a_node_without_the_grids_folder_is_told_of(tmp_path):
    with pytest.raises(UsageError, match="all nodes need the same file system"):
        train_logged((), Path("run"), Path("run.log"), tmp_path / "elsewhere")

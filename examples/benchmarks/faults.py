"""What becomes of runs when the world around them fails: kills, damaged files, a full disk.

    python examples/benchmarks/faults.py                  # all, into examples/results/faults.json
    python examples/benchmarks/faults.py --print          # all, to the terminal
    python examples/benchmarks/faults.py kills files      # some kinds only, to the terminal

Every run is tiny and is compared with one that nothing happened to: checkpoints to the bit, and
`metrics.csv` without the columns of clocks. An outcome is "right", "in words" (one line, status 2,
or a warning beside the right result) or "WRONG". Runs are forked from this process, which has
imported all that they need; a full disk needs root, for a small file system of its own.
"""

import argparse
import contextlib
import importlib
import io
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from forked_runs import (
    ADAPTERS,
    CASES,
    ENVS,
    FILES_OF,
    HORIZON,
    PPO,
    RUN,
    UPDATES,
    Fault,
    Whole,
    differs,
    resuming,
    run,
    saves_state,
    start,
    training,
    wait,
)

from diffsurrogate.errors import UsageError
from diffsurrogate.training.checkpoint import load_checkpoint
from diffsurrogate.training.metrics_file import MetricsFile
from diffsurrogate.training.run_folder import RunFolder, write_rows

ROOT = Path(__file__).parent.parent.parent
RESULTS, PAGE = ROOT / "examples" / "results" / "faults.json", ROOT / "docs" / "command_line.md"
BEGIN, END = "<!-- faults: begin -->", "<!-- faults: end -->"


def in_words(status: int, log: Path) -> str:
    """Return the line that a command was refused with; "" if it was not, or not in one line."""
    lines = [line for line in log.read_text().splitlines() if line.strip()]
    refused = status == 2 and len(lines) == 1 and lines[0].startswith("error: ")
    return lines[0] if refused else ""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one fault."""

    kind: str
    what: str
    where: str
    outcome: str
    words: str = ""


def judge(kind: str, what: str, where: str, status: int, log: Path, wrong: str) -> Outcome:
    """Return the outcome of a command after a fault.

    Args:
        kind, what, where: the fault.
        status, log: of the command.
        wrong: how its result differs from the right one.
    """
    folder = f"{log.parent}/"  # of this machine
    said, text = in_words(status, log).replace(folder, ""), log.read_text().replace(folder, "")
    warned = [line for line in text.splitlines() if line.startswith("warning: ")]
    if said:
        outcome = "in words"
    elif status == 0 and warned:
        outcome, said = "in words", warned[0]
    elif status == 0 and not wrong:
        outcome = "right"
    else:
        outcome, said = "WRONG", f"status {status}, {wrong}: {text[-2000:]}"
    print(f"{outcome:>8}  {kind}: {what}, {where}", flush=True)
    if outcome == "WRONG":
        print(said, flush=True)
    return Outcome(kind=kind, what=what, where=where, outcome=outcome, words=said)


# --- kills ----------------------------------------------------------------------------------------


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def in_a_write(of: str, call: int) -> Fault:
    """Kill in the midst of the `call`-th checkpoint that is written, after half its bytes."""

    def fault() -> None:
        real, calls = torch.save, iter(range(call))

        def save(content: Any, file: Any) -> None:
            if next(calls) < call - 1:
                real(content, file)
                return
            whole = io.BytesIO()
            real(content, whole)
            file.write(whole.getvalue()[: len(whole.getvalue()) // 2])
            file.flush()
            die()

        torch.save = save  # type: ignore[assignment]

    return fault


def before(owner: type, method: str, call: int, of: str = "") -> Fault:
    """Kill when a method is to run for the `call`-th time, with a file of that name if given."""

    def fault() -> None:
        real, calls = getattr(owner, method), iter(range(call))

        def run(own: Any, given: Any) -> Any:
            if (not of or Path(given).name == of) and next(calls) == call - 1:
                die()
            return real(own, given)

        setattr(owner, method, run)

    return fault


def before_replace(of: str, call: int) -> Fault:
    """Kill when a file was written and is to take its place for the `call`-th time."""
    return before(Path, "replace", call, of)


def in_a_row(of: str, call: int) -> Fault:
    """Kill in the midst of the `call`-th row of metrics, when half of it is in one of the files."""

    def fault() -> None:
        real, calls = MetricsFile.append, iter(range(call))

        def append(metrics: MetricsFile, row: dict[str, float]) -> None:
            if next(calls) < call - 1:
                real(metrics, row)
                return
            for file in (metrics.copy, metrics.file):
                before = file.stat().st_size
                real(MetricsFile(file, file.with_name("unused.csv")), row)
                if file.name == of:
                    os.truncate(file, (before + file.stat().st_size) // 2)
                    die()

        MetricsFile.append = append  # type: ignore[method-assign, assignment]

    return fault


def before_save(of: str, call: int) -> Fault:
    """Kill when an update is logged and its checkpoint not begun, for the `call`-th time."""
    return before(RunFolder, "save", call)


POINTS = {
    "in the midst of writing a checkpoint": (in_a_write, "", (2, 3)),
    "a checkpoint written, not in its place": (before_replace, "last.pt", (1, 2)),
    "last.pt in its place, best.pt not": (before_replace, "best.pt", (1, 1)),
    "between a row of metrics and its checkpoint": (before_save, "", (1, 3)),
    "in the midst of a row of metrics": (in_a_row, "metrics.csv", (4, 6)),
    "metrics.csv rewritten, not in its place": (before_replace, "metrics.csv", (2, 2)),
    "all done but the summary": (before_replace, "summary.json", (1, 1)),
}


def resumed(kind: str, what: str, name: str, out: Path, whole: Whole) -> Outcome:
    """Go on with a run that was killed, and compare it."""
    log, last = out.with_suffix(".log"), out / "checkpoints" / "last.pt"
    right = whole.unbroken(name)
    if last.is_file() and not saves_state(right):
        update = load_checkpoint(last)["agent"]["iteration"]
        if update > 0:
            right = whole.stopped(name, update)
    again = resuming(out) if (out / "config.json").is_file() else training(name, out)
    status = run(again, log)
    return judge(kind, what, name, status, log, differs(right, out) if status == 0 else "")


def kills(tmp: Path, whole: Whole, seed: int, names: list[str]) -> Iterator[Outcome]:
    """Kill runs of all methods and sources of envs, at random and at points of their writing."""
    draw = random.Random(seed)
    for name in names:
        whole.unbroken(name)
        for number, what in enumerate(["at a random moment"] * 2 + list(POINTS)):
            out = tmp / f"kill-{name.replace(' ', '-')}-{number}"
            log = out.with_suffix(".log")
            if what in POINTS:
                make, of, calls = POINTS[what]
                status = run(training(name, out), log, make(of, draw.randint(*calls)))
            else:
                child = start(training(name, out), log)
                time.sleep(draw.uniform(0.05, 1.0) * whole.seconds[name])
                os.kill(child, signal.SIGKILL)
                status = wait(child)
            if status not in (-signal.SIGKILL, 0):
                raise RuntimeError(log.read_text())
            if status == 0:  # it had ended, or the point was not come to
                continue
            yield resumed("kills", what, name, out, whole)
            shutil.rmtree(out)


# --- damaged files --------------------------------------------------------------------------------

DAMAGES: dict[str, Callable[[Path], None]] = {
    "emptied": lambda file: os.truncate(file, 0),
    "cut after its first byte": lambda file: os.truncate(file, 1),
    "cut in half": lambda file: os.truncate(file, file.stat().st_size // 2),
    "cut by 20 bytes": lambda file: os.truncate(file, max(0, file.stat().st_size - 20)),
    "cut by a byte": lambda file: os.truncate(file, max(0, file.stat().st_size - 1)),
    "removed": lambda file: file.unlink(),
}


def files(tmp: Path, whole: Whole, seed: int, names: list[str]) -> Iterator[Outcome]:
    """Damage every file of a finished run and of one that was killed, then go on or evaluate."""
    finished, killed = whole.unbroken(FILES_OF), tmp / "killed"
    if run(training(FILES_OF, killed), tmp / "killed.log", before_save("", 4)) != -signal.SIGKILL:
        raise RuntimeError((tmp / "killed.log").read_text())
    evaluating = ["evaluate", "--num-envs", "3", "--steps", "4"]
    for state, start_from, updates in (("finished", finished, UPDATES + 2), ("killed", killed, 0)):
        right = tmp / f"right-{state}"
        shutil.copytree(start_from, right)
        log, again = tmp / "files.log", updates or UPDATES
        if run([*evaluating, f"{right}"], log) != 0 or run(resuming(right, again), log) != 0:
            raise RuntimeError(log.read_text())
        paths = sorted(p.relative_to(start_from) for p in start_from.rglob("*") if p.is_file())
        for path in paths:
            name = "events" if path.name.startswith("events") else f"{path}"
            for damage, do in DAMAGES.items():
                for action in ("resume", "evaluate"):
                    out = tmp / "damaged"
                    shutil.copytree(start_from, out)
                    do(out / path)
                    where = f"{name} of a {state} run, {action}"
                    if action == "resume":
                        status = run(resuming(out, again), log)
                        wrong = differs(right, out) if status == 0 else ""
                    else:
                        status = run([*evaluating, f"{out}"], log)
                        results = [folder / "evaluation.json" for folder in (right, out)]
                        wrong = "evaluation.json"
                        if status == 0 and results[0].read_text() == results[1].read_text():
                            wrong = ""
                    yield judge("files", damage, where, status, log, wrong)
                    shutil.rmtree(out)


# --- disks, several at once, grids ----------------------------------------------------------------


@contextlib.contextmanager
def small_disk(folder: Path, kibibytes: int) -> Iterator[Callable[[], object]]:
    """Mount a file system of its own; yield what gives it room."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={kibibytes}k", "tmpfs", f"{folder}"]
    subprocess.run(command, check=True)
    try:
        grow = ["mount", "-o", "remount,size=64m", f"{folder}"]
        yield lambda: subprocess.run(grow, check=True)
    finally:
        subprocess.run(["umount", f"{folder}"], check=True)
        folder.rmdir()


def disk(tmp: Path, whole: Whole, seed: int, names: list[str]) -> Iterator[Outcome]:
    """Let the disk be full at some point of a run; make room, and go on."""
    if os.geteuid() != 0:
        print("a full disk is not tried: mounting one of its own needs root")
        return
    sizes = (4, 8, 12, 16, 20, 24, 48, 64, 96, 128, 192, 256, 320, 336)
    for name in (FILES_OF, "shac++ paper"):
        whole.unbroken(name)
        for size in sizes:
            log, what = tmp / "disk.log", f"full after {size} KiB"
            with small_disk(tmp / "disk", size) as make_room:
                out = tmp / "disk" / "run"
                status = run(training(name, out), log)
                if status == 0:
                    continue
                yield judge("full disk", what, f"{name}, train", status, log, "no words")
                make_room()
                after = resumed("full disk", f"{what}, room made", name, out, whole)
                yield after


def at_once(tmp: Path, whole: Whole, seed: int, names: list[str]) -> Iterator[Outcome]:
    """Start two trainings in one folder at the same moment: one must be refused."""
    for number in range(4):
        for what in ("two fresh starts", "two resumptions"):
            out = tmp / f"at-once-{number}-{what.split()[1]}"
            command = training(FILES_OF, out)
            if what == "two resumptions":
                run(command, tmp / "first.log", before_save("", 3))
                command = resuming(out)
            logs = [tmp / "one.log", tmp / "other.log"]
            statuses = [wait(child) for child in [start(command, log) for log in logs]]
            right = whole.unbroken(FILES_OF)
            first, second = sorted(zip(statuses, logs, strict=True))
            wrong = differs(right, out) if first[0] == 0 else "neither went on"
            yield judge("at once", what, "the one that trains", *first, wrong)
            yield judge("at once", what, "the other", *second, "trained too")


def grids(tmp: Path, whole: Whole, seed: int, names: list[str]) -> Iterator[Outcome]:
    """Kill a run of a grid, and the grid; repeat the command."""
    draw = random.Random(seed)
    results: dict[str, Any] = {}
    for what in ("nothing", "a run killed", "a run killed", "the grid killed"):
        out = tmp / f"grid-{len(list(tmp.glob('grid-*')))}"
        command = [sys.executable, "-m", "diffsurrogate", "reproduce", "table1", "--out", f"{out}"]
        command += ["--tasks", "dispersion", "--agents", "1", "--methods", "ppo", "--seeds", "1"]
        command += ["2", "--jobs", "1", "--total-steps", f"{60 * ENVS * HORIZON}", "--", *RUN[:-2]]
        command += PPO
        log = tmp / "grid.log"
        with log.open("wb") as stream:
            grid = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT)
        first = out / "default" / "dispersion-1-ppo-mlp-1"
        while what != "nothing" and len(_rows(first)) < 3:
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 0.05))
        if what == "a run killed":
            os.kill(int((first / ".lock").read_text()), signal.SIGKILL)
        elif what == "the grid killed":
            grid.kill()
        status = grid.wait()
        expected = -signal.SIGKILL if what == "the grid killed" else 0
        said = "repeating it (1/3)" in log.read_text() or what != "a run killed"
        with log.open("wb") as stream:
            again = subprocess.run(command, stdout=stream, stderr=subprocess.STDOUT).returncode
        runs = [out / "default" / f"dispersion-1-ppo-mlp-{number}" for number in (1, 2)]
        if what == "nothing":
            results["right"] = runs
            continue
        wrong = "" if status == expected and said else f"status {status}, not told of"
        for one, other in zip(results["right"], runs, strict=True):
            wrong = wrong or (differs(one, other) if again == 0 else "")
        yield judge("grids", what, "reproduce, repeated", again, log, wrong)


def _rows(out: Path) -> list[str]:
    file = out / "metrics.csv"
    return file.read_text().splitlines()[1:] if file.is_file() else []


# --- all of it ------------------------------------------------------------------------------------

KINDS = {"kills": kills, "files": files, "disk": disk, "at once": at_once, "grids": grids}
TITLES = {
    "kills": "a kill, then `--resume`",
    "files": "a file of the run cut short, emptied or removed, then `--resume` or `evaluate`",
    "full disk": "a full disk; then room is made, and `--resume`",
    "at once": "two trainings started in one folder at once",
    "grids": "a run of `reproduce` killed, or `reproduce` itself; then the same command",
}


def page(outcomes: list[Outcome]) -> str:
    """Return the table of the docs."""
    lines = ["| fault | tried | right | told in one line | wrong |", "|---|---|---|---|---|"]
    for kind, title in TITLES.items():
        counts = Counter(one.outcome for one in outcomes if one.kind == kind)
        cells = [sum(counts.values()), counts["right"], counts["in words"], counts["WRONG"]]
        lines.append(f"| {title} | {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def write(outcomes: list[Outcome], cpu: float) -> None:
    """Write the results and the table."""
    groups: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    said: dict[str, list[str]] = defaultdict(list)
    for one in outcomes:
        groups[one.kind][f"{one.what}: {one.where}"][one.outcome] += 1
        if one.outcome == "in words":
            said[f"{one.kind}: {one.what}: {one.where}"].append(one.words)
    content = {
        "command": "python examples/benchmarks/faults.py",
        "cpu_seconds": round(cpu),
        "outcomes": groups,
        "said": said,
    }
    write_rows(RESULTS, content)
    before, _, rest = PAGE.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text(f"{before}{BEGIN}\n\n{page(outcomes)}\n\n{END}{after}")


def main() -> int:
    """Try the kinds of faults asked for; return 1 if something was wrong."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("kinds", nargs="*", help=", ".join(KINDS))
    parser.add_argument("--cases", nargs="*", default=list(CASES), help="of kills")
    parser.add_argument("--seed", type=int, default=0, help="of random moments")
    parser.add_argument("--print", action="store_true", help="instead of writing the page")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.optim.Adam([torch.zeros(1, requires_grad=True)])  # imports much
    for adapter in ADAPTERS:
        with contextlib.suppress(UsageError):  # its runs will tell
            importlib.import_module(f"diffsurrogate.wrappers.{adapter}")
    with tempfile.TemporaryDirectory() as folder:
        tmp = Path(folder)
        os.environ["JAX_COMPILATION_CACHE_DIR"] = f"{tmp / 'jax'}"
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        whole = Whole(tmp / "whole")
        whole.folder.mkdir()
        outcomes = [
            outcome
            for kind in arguments.kinds or KINDS
            for outcome in KINDS[kind](tmp, whole, arguments.seed, arguments.cases)
        ]
    spent = os.times()
    cpu = spent.user + spent.system + spent.children_user + spent.children_system
    print(page(outcomes))
    print(f"{cpu:.0f} CPU-seconds")
    if not (arguments.print or arguments.kinds or arguments.cases != list(CASES)):
        write(outcomes, cpu)
    return 1 if any(one.outcome == "WRONG" for one in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())

"""The command line.

A command's own modules are imported once it is chosen: importing torch takes seconds.
"""

import os
import shlex
import signal
import sys
import time
from dataclasses import MISSING, dataclass, fields, replace
from importlib.metadata import version
from pkgutil import resolve_name
from typing import Annotated, Any, NamedTuple, Union

import tyro

from diffsurrogate.cli.parsing import parse, split_extra, wants_help
from diffsurrogate.errors import UsageError, did_you_mean


class _Command(NamedTuple):
    """What a command is made of, as names: a module in `cli`, and what it defines."""

    options: str
    run: str
    """What the command does with its options; returns the exit status."""
    summary: str
    """The first line of its help."""


_COMMANDS = {
    "train": _Command(
        "arguments:TrainUsage",
        "train:train",
        "Train a policy, and leave a run folder with checkpoints, metrics, a curve and a GIF.",
    ),
    "config": _Command(
        "arguments:ConfigUsage",
        "config_file:print_config",
        "Print the configuration in force as YAML, which `train --config FILE` takes.",
    ),
    "evaluate": _Command(
        "evaluate:EvaluateOptions",
        "evaluate:evaluate_run",
        "Evaluate a run's policy: deterministic, whole first episodes, fixed seed.",
    ),
    "render": _Command(
        "evaluate:RenderOptions",
        "evaluate:render_run",
        "Film a run's policy as a GIF or MP4; needs no display.",
    ),
    "export": _Command(
        "evaluate:ExportOptions",
        "evaluate:export_run",
        "Write a run's policy as one ONNX or .pt2 file, which acts without diffsurrogate.",
    ),
    "report": _Command(
        "report.command:ReportOptions",
        "report.command:report",
        "Sum up all runs below a folder: interquartile means and bootstrap intervals over seeds.",
    ),
    "reproduce": _Command(
        "reproduce.command:ReproduceOptions",
        "reproduce.command:reproduce",
        "Train the cells of a paper's table, and set ours beside the paper's figures.",
    ),
    "sweep": _Command(
        "sweep.command:SweepOptions",
        "sweep.command:sweep",
        'Search for hyperparameters by Optuna: pip install "diffsurrogate[sweep]".',
    ),
    "check-gradients": _Command(
        "evaluate:CheckOptions",
        "evaluate:check_env",
        "Compare an env's own gradients with finite differences; status 1 if they disagree.",
    ),
    "doctor": _Command(
        "doctor.command:DoctorOptions",
        "doctor.command:doctor",
        "Try an env out: spaces, determinism, rewards, gradients, how well models fit it.",
    ),
    "envs": _Command(
        "envs:EnvsOptions",
        "envs:list_envs",
        "List the ids of envs, one per line; lines that begin with # are remarks.",
    ),
}
"""All there are, in the order of the help."""
_PATIENCE = 10.0
"""Seconds in which torchrun ends a process once the first has refused the same."""


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit status, 2 for input that cannot work."""
    try:
        try:
            return _run(sys.argv[1:] if argv is None else argv)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # whoever read what we print is gone, such as `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE


def _run(arguments: list[str]) -> int:
    if arguments == ["--version"]:
        print(f"diffsurrogate {version('diffsurrogate')}")
        return 0
    if not arguments or arguments[0] not in _COMMANDS:
        return _show_commands(arguments)
    from diffsurrogate.distributed import first_on_machine, started_together

    try:
        several = any(word.partition("=")[0] == "--seeds" for word in arguments)
        if several and arguments[0] == "train" and not wants_help(arguments):
            return _train_each(arguments[1:])
        options = _parse(arguments)
        if arguments[0] not in ("train", "config") and started_together() > 1:
            raise UsageError(
                f"torchrun has started {started_together()} processes, of which each would do all "
                f"of {arguments[0]}; only train shares its work, so start this without torchrun"
            )
        return _imported(_COMMANDS[arguments[0]].run)(options)
    except UsageError as error:
        if not first_on_machine():
            time.sleep(_PATIENCE)
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


def _imported(place: str) -> Any:
    """Return what is defined at `module:name` in `cli`."""
    return resolve_name(f"diffsurrogate.cli.{place}")


def _show_commands(arguments: list[str]) -> int:
    """Show help, or say that there is no such command, which both end the program."""

    @dataclass
    class Options:
        pass

    commands = [
        Annotated[Options, tyro.conf.subcommand(name, description=command.summary)]
        for name, command in _COMMANDS.items()
    ]
    parse(
        Union[tuple(commands)],  # noqa: UP007
        prog="diffsurrogate",
        description="Learned gradients for any simulator: train with SHAC, SHAC+, SHAC++ and PPO.",
        args=arguments,
    )
    return 0


def _train_each(arguments: list[str]) -> int:
    """Train a run for each of --seeds; return the first exit status that is not 0."""
    for words in _imported("arguments:each_seed")(arguments):
        status = _imported("train:train")(_parse(["train", *words]))
        if status != 0:
            return status
    return 0


def _parse(arguments: list[str]) -> Any:
    """Return the options of a command; `train` and `config` have those of their method."""
    command, *words = arguments
    if command in ("train", "config"):
        return _parse_train(command, words)
    kind, program = _imported(_COMMANDS[command].options), f"diffsurrogate {command}"
    if command not in ("reproduce", "sweep"):
        return parse(kind, prog=program, args=words)
    words, extra = split_extra(words)
    options, unknown = parse(kind, prog=program, args=words, return_unknown_args=True)
    if unknown:
        raise UsageError(f"{command} has no {_hint(kind, unknown, extra)}; see {program} --help")
    return replace(options, extra=extra)


def _hint(kind: type, unknown: list[str], extra: tuple[str, ...]) -> str:
    """Return which option is not one of a command, and what was probably meant."""
    word = next((word for word in unknown if word.startswith("-")), None)
    if word is None:
        return f"argument {unknown[0]}"
    own = [f"--{p.name.replace('_', '-')}" for p in fields(kind) if p.default is not MISSING]
    end = f"; options of train go to the end, behind --: -- {shlex.join([*extra, *unknown])}"
    return f"option {word}{did_you_mean(word.partition('=')[0], own) or end}"


def _parse_train(command: str, words: list[str]) -> Any:
    """Return the options of `train` or `config`."""
    from diffsurrogate.cli.arguments import names_method_and_env, read_train, resumed
    from diffsurrogate.cli.options import TrainOptions

    if command == "train" and "--resume" in words and not wants_help(words):
        return resumed(words)
    if names_method_and_env(words):
        return read_train(words)
    kind = _imported(_COMMANDS[command].options)
    words = ["--help"] if wants_help(words) else words
    options = parse(kind, prog=f"diffsurrogate {command}", args=words)
    return TrainOptions.recommended(**vars(options))


if __name__ == "__main__":
    sys.exit(main())

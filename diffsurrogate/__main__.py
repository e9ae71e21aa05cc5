"""The command line."""

import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from typing import Annotated, Any

import tyro

from diffsurrogate.cli.arguments import (
    ConfigUsage,
    TrainUsage,
    each_seed,
    names_method_and_env,
    parse,
    read_train,
    resumed,
    wants_help,
)
from diffsurrogate.cli.config_file import print_config
from diffsurrogate.cli.doctor.command import DoctorOptions, doctor
from diffsurrogate.cli.envs import EnvsOptions, list_envs
from diffsurrogate.cli.evaluate import (
    CheckOptions,
    EvaluateOptions,
    ExportOptions,
    RenderOptions,
    check_env,
    evaluate_run,
    export_run,
    render_run,
)
from diffsurrogate.cli.options import TrainOptions
from diffsurrogate.cli.report.command import ReportOptions, report
from diffsurrogate.cli.reproduce.command import ReproduceOptions, reproduce, split_extra
from diffsurrogate.cli.sweep.command import SweepOptions, sweep
from diffsurrogate.cli.train import train
from diffsurrogate.distributed import first_on_machine, started_together
from diffsurrogate.errors import UsageError

_Train = Annotated[TrainUsage, tyro.conf.subcommand("train")]
_Config = Annotated[ConfigUsage, tyro.conf.subcommand("config")]
_Evaluate = Annotated[EvaluateOptions, tyro.conf.subcommand("evaluate")]
_Render = Annotated[RenderOptions, tyro.conf.subcommand("render")]
_Export = Annotated[ExportOptions, tyro.conf.subcommand("export")]
_Report = Annotated[ReportOptions, tyro.conf.subcommand("report")]
_Reproduce = Annotated[ReproduceOptions, tyro.conf.subcommand("reproduce")]
_Sweep = Annotated[SweepOptions, tyro.conf.subcommand("sweep")]
_Check = Annotated[CheckOptions, tyro.conf.subcommand("check-gradients")]
_Doctor = Annotated[DoctorOptions, tyro.conf.subcommand("doctor")]
_Envs = Annotated[EnvsOptions, tyro.conf.subcommand("envs")]
_COMMANDS: dict[type, Callable[[Any], int]] = {
    EvaluateOptions: evaluate_run,
    RenderOptions: render_run,
    ExportOptions: export_run,
    ReportOptions: report,
    ReproduceOptions: reproduce,
    SweepOptions: sweep,
    CheckOptions: check_env,
    DoctorOptions: doctor,
    EnvsOptions: list_envs,
}
"""What each runs; all return the exit status."""
_PATIENCE = 10.0
"""Seconds in which torchrun ends a process once the first has refused the same."""
_OfRuns = _Evaluate | _Render | _Export | _Report
_Command = _Train | _Config | _OfRuns | _Reproduce | _Sweep | _Check | _Doctor | _Envs


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
    try:
        several = any(word.partition("=")[0] == "--seeds" for word in arguments)
        if several and arguments[0] == "train" and not wants_help(arguments):
            return _train_each(arguments[1:])
        command = _parse(arguments)
        if isinstance(command, TrainOptions):
            return print_config(command) if arguments[0] == "config" else train(command)
        if started_together() > 1:
            raise UsageError(
                f"torchrun has started {started_together()} processes, of which each would do all "
                f"of {arguments[0]}; only train shares its work, so start this without torchrun"
            )
        return _COMMANDS[type(command)](command)
    except UsageError as error:
        if not first_on_machine():
            time.sleep(_PATIENCE)
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


def _train_each(arguments: list[str]) -> int:
    """Train a run for each of --seeds; return the first exit status that is not 0."""
    for words in each_seed(arguments):
        status = train(_parse(["train", *words]))
        if status != 0:
            return status
    return 0


def _parse(arguments: list[str]) -> Any:
    """Return the options of a command; `train` and `config` have those of their method."""
    first = arguments
    if arguments[:1] in (["reproduce"], ["sweep"]):
        first, extra = split_extra(arguments)
    if arguments[:1] in (["train"], ["config"]):
        if arguments[0] == "train" and "--resume" in arguments and not wants_help(arguments):
            return resumed(arguments[1:])
        if names_method_and_env(arguments[1:]):
            return read_train(arguments[1:])
        first = [arguments[0], "--help"] if wants_help(arguments) else arguments
    description = "Learned gradients for any simulator: train with SHAC, SHAC+, SHAC++ and PPO."
    command: _Command = parse(
        _Command,
        prog="diffsurrogate",
        description=description,
        args=first,
    )
    if isinstance(command, ReproduceOptions | SweepOptions):
        return replace(command, extra=extra)
    if isinstance(command, TrainUsage):
        return TrainOptions.recommended(**vars(command))
    return command


if __name__ == "__main__":
    sys.exit(main())

"""`diffsurrogate train --resume`: a run's own options, and what may be changed of them."""

from dataclasses import asdict, replace

import tyro

from diffsurrogate.cli.options import TrainOptions
from diffsurrogate.cli.presets import recommended
from diffsurrogate.configuration import differences
from diffsurrogate.errors import UsageError
from diffsurrogate.run import RunFolder

FREE_TO_CHANGE = {
    *("total_steps", "time_limit", "cpu_limit", "stop_at"),
    *("film_steps", "threads", "progress"),
}
_UNKNOWN = "?"


def resumed(arguments: list[str]) -> TrainOptions:
    """Parse what follows `train`, with the options the run was started with as defaults.

    Raises:
        UsageError: there is no run, or an option contradicts it.
    """
    nothing = TrainOptions(method="shac++", env=_UNKNOWN)
    given = _parse(arguments, nothing)
    if given.out is None and given.env == _UNKNOWN:
        raise UsageError("--resume needs to know which run; give its folder by --out")
    if given.out is None:
        start = replace(
            nothing,
            method=given.method,
            env=given.env,
            agents=given.agents,
            network=given.network,
            preset=given.preset,
        )
        given = _parse(arguments, recommended(start))  # the name may come from what it recommends
    folder = RunFolder.open(given.folder)
    saved = TrainOptions.from_json(folder.config)
    saved = replace(saved, out=folder.path, resume=True)
    options = _parse(arguments, saved)
    for name, was, now in differences(asdict(saved), asdict(options)):
        if name not in FREE_TO_CHANGE:
            raise UsageError(
                f"the run in {folder.path} has {name} {was}, not {now}; leave the option out, or "
                "start another run with another --out"
            )
    return options


def _parse(arguments: list[str], default: TrainOptions) -> TrainOptions:
    return tyro.cli(TrainOptions, prog="diffsurrogate train", args=arguments, default=default)

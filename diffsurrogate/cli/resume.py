"""`diffsurrogate train --resume`: a run's own options, and what may be changed of them."""

from dataclasses import asdict, replace

from diffsurrogate.cli.options import TrainOptions
from diffsurrogate.cli.presets import named_by, names_in, parse_train
from diffsurrogate.config import differences
from diffsurrogate.errors import UsageError
from diffsurrogate.training.run_folder import RunFolder

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
    names = names_in(arguments)
    start = TrainOptions(method="shac++", env=_UNKNOWN) if names is None else named_by(names)
    given = parse_train(arguments, start)  # the folder's name may come from all of them
    if given.out is None and given.env == _UNKNOWN:
        raise UsageError("--resume needs to know which run; give its folder by --out")
    folder = RunFolder.open(given.folder)
    saved = TrainOptions.from_json(folder.config)
    saved = replace(saved, out=folder.path, resume=True)
    options = parse_train(arguments, replace(saved, env_options={}))  # or they were options each
    options = replace(options, env_options=options.env_options or saved.env_options)
    for name, was, now in differences(asdict(saved), asdict(options)):
        if name not in FREE_TO_CHANGE:
            raise UsageError(
                f"the run in {folder.path} has {name} {was}, not {now}; leave the option out, or "
                "start another run with another --out"
            )
    return options

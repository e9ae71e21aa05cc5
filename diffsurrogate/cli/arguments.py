"""From what follows `diffsurrogate train` to its options, each argument read once.

METHOD and ENV stand first, and with --agents, --network and --preset decide the defaults of all
other options, which the class of the method's options then reads.
"""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any, TypeVar, cast, get_args

import tyro

from diffsurrogate.algorithms.all_action import AllActionConfig
from diffsurrogate.algorithms.pathwise import PathwiseConfig
from diffsurrogate.algorithms.policy_updates import GradientUpdateConfig, HybridUpdateConfig
from diffsurrogate.cli.options import NamedOptions, TrainOptions
from diffsurrogate.config import changed_to, differences, require_choice
from diffsurrogate.errors import UsageError
from diffsurrogate.nets.config import NET_CONFIGS
from diffsurrogate.presets.recipe import Choice, Method
from diffsurrogate.surrogates.action_world_model import ActionWorldModelConfig
from diffsurrogate.surrogates.step_model import StepModelConfig
from diffsurrogate.training.run_folder import RunFolder

T = TypeVar("T")
FREE_TO_CHANGE = {
    *("total_steps", "time_limit", "cpu_limit", "stop_at"),
    *("film_steps", "threads", "progress", "warn_after"),
}
"""What a run may be resumed with another value of."""
VARIANTS: tuple[Mapping[str, type], ...] = (
    {"gradient": GradientUpdateConfig, "hybrid": HybridUpdateConfig},
    {"pathwise": PathwiseConfig, "all-action": AllActionConfig},
    {"step": StepModelConfig, "awm": ActionWorldModelConfig},
    NET_CONFIGS,
)
"""Classes that a setting may be one of, by the word that chooses it."""
_HELP, _HELP_ALL = {"-h", "--help"}, "--help-all"
_LEFT_TO_HELP_ALL = tuple(NET_CONFIGS.values())
"""Types of settings that --help leaves out."""


@dataclass(frozen=True, kw_only=True)
class TrainUsage(Choice):
    """Train a policy, and leave a run folder with checkpoints, metrics, a curve and a GIF.

    Defaults depend on METHOD, ENV, --agents, --network and --preset: `diffsurrogate train METHOD
    ENV --help` lists the options that the method has, with the defaults in force. `diffsurrogate
    train --resume --out FOLDER` continues a run.
    """

    method: tyro.conf.Positional[Method]
    env: tyro.conf.Positional[str]


@dataclass(frozen=True, kw_only=True)
class _Resumed:
    """The options that say which run to continue."""

    out: Path | None = None
    resume: bool = False


def wants_help(arguments: Sequence[str]) -> bool:
    """Return whether help is asked for."""
    return bool({*_HELP, _HELP_ALL} & set(arguments))


def names_method_and_env(arguments: Sequence[str]) -> bool:
    """Return whether METHOD and ENV stand first."""
    return len(arguments) > 1 and not any(word.startswith("-") for word in arguments[:2])


def read_train(arguments: Sequence[str]) -> TrainOptions:
    """Return the options of what follows `train`, METHOD and ENV first.

    Raises:
        UsageError: METHOD, ENV or an option is not known, or they do not go together.
    """
    if not names_method_and_env(arguments):
        raise UsageError(
            f"train {' '.join(arguments[:2])} names no method and env; start with these: "
            "diffsurrogate train METHOD ENV"
        )
    method, env, *rest = arguments
    require_choice("method", method, get_args(Method))
    start = NamedOptions(method=cast(Method, method), env=env)
    named, rest = _known(start, rest)
    return _read(TrainOptions.recommended(**vars(named)), rest)


def resumed(arguments: Sequence[str]) -> TrainOptions:
    """Return the options of what follows `train`, with those the run was started with as defaults.

    Raises:
        UsageError: there is no run, or an option contradicts it.
    """
    first = list(takewhile(lambda word: not word.startswith("-"), arguments))
    names = dict(zip(("method", "env"), first, strict=False))
    where, rest = _known(_Resumed(), arguments[len(names) :])
    if where.out is None and len(names) < 2:
        raise UsageError("--resume needs to know which run; give its folder by --out")
    folder = RunFolder.open(where.out or read_train([*names.values(), *rest]).folder)
    saved = replace(TrainOptions.from_json(folder.config), out=folder.path, resume=True)
    had = {part.name: getattr(saved, part.name) for part in fields(Choice)}
    named, rest = _known(NamedOptions(**had), rest)
    options = _read(replace(saved, env_options={}), rest)  # or they were options each
    options = replace(options, env_options=options.env_options or saved.env_options)
    for name, was, now in differences(asdict(saved), asdict(options) | vars(named) | names):
        if name not in FREE_TO_CHANGE:
            raise UsageError(
                f"the run in {folder.path} has {name} {was}, not {now}; leave the option out, or "
                "start another run with another --out"
            )
    return options


def _known(start: T, arguments: Sequence[str]) -> tuple[T, list[str]]:
    """Return `start` as changed by those arguments that are its options, and the others."""
    return tyro.cli(
        type(start), default=start, args=arguments, add_help=False, return_unknown_args=True
    )


def _read(default: TrainOptions, arguments: Sequence[str]) -> TrainOptions:
    """Return `default` as changed by arguments, or show help.

    Raises:
        UsageError: an option is not known.
    """
    program = f"diffsurrogate train {default.method} {default.env}"
    default, arguments = _with_variants(default, list(arguments))
    everything = _HELP_ALL in arguments
    options, unknown = tyro.cli(
        type(default),
        prog=program,
        description=f"Options of {default.method}, with the defaults for {default.env}. "
        + ("" if everything else f"{_HELP_ALL} lists the settings of networks too.")
        + _variants_help(default, everything),
        args=["--help"] if everything else arguments,
        default=default,
        config=(tyro.conf.AvoidSubcommands,),  # of a setting that is one of several classes
        registry=_short_help() if wants_help(arguments) and not everything else None,
        return_unknown_args=True,
    )
    if unknown:
        flags = [f"--{name.replace('_', '-')}" for name in _names(asdict(default))]
        word = next((word for word in unknown if word.startswith("-")), unknown[0])
        close = difflib.get_close_matches(word.split("=")[0].replace("_", "-"), flags, 1, 0.4)
        raise UsageError(
            f"{default.method} has no option {word}"
            f"{f'; did you mean {close[0]}?' if close else ';'} {program} {_HELP_ALL} lists what "
            "there is"
        )
    return options


def _with_variants(default: TrainOptions, arguments: list[str]) -> tuple[TrainOptions, list[str]]:
    """Return `default` with the variants that arguments choose, and the other arguments.

    Raises:
        UsageError: there is no such variant.
    """
    for place, argument in enumerate(arguments):
        flag, equals, word = argument.partition("=")
        variants = dict(_settings_with_variants(default)).get(flag.removeprefix("--"))
        if variants is None or not flag.startswith("--"):
            continue
        after = arguments[place + 1 :]
        if not equals:
            word, after = (after[0], after[1:]) if after else ("", [])
        if word not in variants:
            raise UsageError(f"{flag} is {word!r}; give one of {', '.join(variants)}")
        path = flag.removeprefix("--").split(".")
        default = _with_variant(default, path, variants[word])
        return _with_variants(default, arguments[:place] + after)
    return default, arguments


def _with_variant(config: Any, path: list[str], kind: type) -> Any:
    """Return a configuration with a setting of another class; what both have stays."""
    name, *rest = path
    old = getattr(config, name)
    if rest:
        return replace(config, **{name: _with_variant(old, rest, kind)})
    return config if type(old) is kind else replace(config, **{name: changed_to(kind, old)})


def _settings_with_variants(
    config: Any, path: str = ""
) -> Iterator[tuple[str, Mapping[str, type]]]:
    """Yield the dotted names of settings that are one of several classes, and these by word."""
    for part in fields(config):
        value, name = getattr(config, part.name), f"{path}{part.name}"
        if is_dataclass(value):
            for variants in VARIANTS:
                if type(value) in variants.values():
                    yield name, variants
            yield from _settings_with_variants(value, f"{name}.")


def _variants_help(options: TrainOptions, everything: bool) -> str:
    """Return which settings have variants, for help to begin with."""
    lines = [
        f"--{path} {{{','.join(variants)}}}"
        for path, variants in _settings_with_variants(options)
        if everything or variants is not NET_CONFIGS
    ]
    return f" Variants, each with options of its own: {'; '.join(lines)}." if lines else ""


def _names(content: dict[str, Any], path: str = "") -> Iterator[str]:
    """Yield the dotted names of a configuration's values."""
    for name, value in content.items():
        if isinstance(value, dict) and value:
            yield from _names(value, f"{path}{name}.")
        else:
            yield f"{path}{name}"


def _short_help() -> tyro.constructors.ConstructorRegistry:
    """Return rules that leave out of help what is rarely set; nothing else is read by them."""
    registry = tyro.constructors.ConstructorRegistry()

    @registry.struct_rule
    def leave_out(
        info: tyro.constructors.StructTypeInfo,
    ) -> tyro.constructors.StructConstructorSpec | None:
        if info.type not in _LEFT_TO_HELP_ALL:
            return None
        return tyro.constructors.StructConstructorSpec(instantiate=info.type, fields=())

    return registry

"""From what follows `diffsurrogate train` to its options, each argument read once.

METHOD and ENV stand first, and with --agents, --network and --preset decide the defaults of all
other options, which the class of the method's options then reads: first those of a file (--config),
as if its names and values were arguments, then those of the command line.
"""

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any, TypeVar, get_args

import tyro

from diffsurrogate.algorithms.all_action import AllActionConfig
from diffsurrogate.algorithms.pathwise import PathwiseConfig
from diffsurrogate.algorithms.policy_updates import GradientUpdateConfig, HybridUpdateConfig
from diffsurrogate.cli.config_file import read_settings, words_of
from diffsurrogate.cli.options import NamedOptions, TrainOptions, check_format
from diffsurrogate.cli.parsing import HELP_ALL, parse, wants_help
from diffsurrogate.config import by_dotted_name, changed_to, differences, require_choice
from diffsurrogate.errors import UsageError
from diffsurrogate.nets.config import NET_CONFIGS
from diffsurrogate.presets.recipe import Choice, Method
from diffsurrogate.surrogates.action_world_model import ActionWorldModelConfig
from diffsurrogate.surrogates.step_model import StepModelConfig
from diffsurrogate.training.checkpoint import FORMAT_VERSION
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
_LEFT_TO_HELP_ALL = tuple(NET_CONFIGS.values())
"""Types of settings that --help leaves out."""
_GRU = ".net.gru-size"


@dataclass(frozen=True, kw_only=True)
class TrainUsage(Choice):
    """Train a policy, and leave a run folder with checkpoints, metrics, a curve and a GIF.

    Defaults depend on METHOD, ENV, --agents, --network and --preset: `diffsurrogate train METHOD
    ENV --help` lists the options that the method has, with the defaults in force. `diffsurrogate
    train --config FILE` takes METHOD, ENV and options from a file, `diffsurrogate train --resume
    --out FOLDER` continues a run.
    """

    method: tyro.conf.Positional[Method]
    env: tyro.conf.Positional[str]


@dataclass(frozen=True, kw_only=True)
class ConfigUsage(TrainUsage):
    """Print the configuration in force as YAML, which `train --config FILE` takes.

    METHOD, ENV and the options are those of `train`.
    """


@dataclass(frozen=True, kw_only=True)
class _FromFile:
    """The option that says where others are."""

    config: Path | None = None


@dataclass(frozen=True, kw_only=True)
class _Resumed:
    """The options that say which run to continue."""

    config: Path | None = None
    out: Path | None = None
    resume: bool = False


@dataclass(frozen=True, kw_only=True)
class _Several:
    """The options that are another for each of several runs."""

    seeds: tuple[int, ...] = ()
    seed: int | None = None
    out: Path | None = None
    resume: bool = False


def names_method_and_env(arguments: Sequence[str]) -> bool:
    """Return whether METHOD and ENV stand first, or a file is to name them."""
    named = len(arguments) > 1 and not any(word.startswith("-") for word in arguments[:2])
    return named or any(word.partition("=")[0] == "--config" for word in arguments)


def read_train(arguments: Sequence[str]) -> TrainOptions:
    """Return the options of what follows `train`, METHOD and ENV first.

    Raises:
        UsageError: METHOD, ENV or an option is not known, they do not go together, or the file of
            options cannot be read or is contradicted.
    """
    names, rest = _names_first(arguments)
    where, rest = _known(_FromFile(), rest)
    if where.config is None:
        named, rest = _known(_start(names), rest)
        return _read(TrainOptions.recommended(**vars(named)), rest)
    content = read_settings(where.config)
    try:
        named, rest = _with_names(content, names, rest)
        saved = _read_settings(TrainOptions.recommended(**vars(named)), content)
    except UsageError as error:
        raise UsageError(f"{where.config}: {error}") from error
    return _on_top(saved, rest)


def each_seed(arguments: Sequence[str]) -> list[list[str]]:
    """Return what follows `train` for the run of each of --seeds.

    Raises:
        UsageError: there is none, a seed is below 0, stands there twice or beside --seed; or as
            `read_train`.
    """
    names, rest = _names_first(arguments)
    several, rest = _known(_Several(), rest)
    seeds = several.seeds
    if not seeds:
        raise UsageError("--seeds is empty; give a number for each run, such as --seeds 0 1 2")
    if several.seed is not None or min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise UsageError(
            f"--seeds are {', '.join(map(str, seeds))}; give each once, none below 0, and no --seed"
        )
    runs = []
    for seed in seeds:
        words = [*names.values(), *rest, "--seed", str(seed)]
        out = several.out
        folder = read_train(words).folder if out is None else out / f"seed-{seed}"
        begun = several.resume and (folder / "config.json").is_file()
        runs.append([*words, "--out", str(folder), *(["--resume"] if begun else [])])
    return runs


def _names_first(arguments: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Return METHOD and ENV, as far as they stand first, and the other arguments."""
    first = list(takewhile(lambda word: not word.startswith("-"), arguments))[:2]
    return dict(zip(("method", "env"), first, strict=False)), list(arguments[len(first) :])


def _start(names: Mapping[str, Any]) -> NamedOptions:
    """Return options of METHOD and ENV only.

    Raises:
        UsageError: one is missing or not known.
    """
    if len(names) < 2:
        raise UsageError(
            f"train {' '.join(names.values())} names no method and env; start with these: "
            "diffsurrogate train METHOD ENV (also with --seeds and --resume)"
        )
    require_choice("method", names["method"], get_args(Method))
    return NamedOptions(method=names["method"], env=names["env"])


def _with_names(
    content: Mapping[str, Any], names: Mapping[str, str], arguments: list[str]
) -> tuple[NamedOptions, list[str]]:
    """Return the options that defaults depend on, of a file and of arguments, and the others.

    Raises:
        UsageError: an argument other than --agents contradicts the file.
    """
    own = {name: str(content[name]) for name in ("method", "env") if name in content}
    start = _start({**own, **names})
    choices = ({part.name for part in fields(Choice)} & set(content)) - set(own)
    of_file, _ = _known(start, list(words_of({name: content[name] for name in choices}, {})))
    named, rest = _known(of_file, arguments)
    for name, now in vars(named).items():
        was = own.get(name, getattr(of_file, name))
        if name in content and name != "agents" and now != was:
            raise UsageError(
                f"{name} is {was} there, not {now}, and the other settings go with it; leave "
                f"{now} out, or take {name} out of the file together with what depends on it"
            )
    return named, rest


def _read_settings(default: TrainOptions, content: dict[str, Any]) -> TrainOptions:
    """Return `default` as changed by the settings of a file, those it depends on apart.

    Raises:
        UsageError: a name or a value is not known, or the file is of another format or a resumed
            run.
    """
    check_format(content.get("format", FORMAT_VERSION))
    if content.get("resume"):
        raise UsageError("resume is set; to continue a run, give --resume --out FOLDER instead")
    read = {part.name for part in fields(Choice)}
    content = {name: value for name, value in content.items() if name not in read}
    default = _with_variants_of(content, default)
    known = json.loads(json.dumps(default.to_json()))
    return _read(default, list(words_of(content, known)), tyro.conf.FlagConversionOff)


def _with_variants_of(content: dict[str, Any], default: TrainOptions) -> TrainOptions:
    """Return `default` with the variants that have the settings of a file."""
    for path, variants in _settings_with_variants(default):
        own: Any = content
        now: Any = default
        for name in path.split("."):
            own, now = own.get(name) if isinstance(own, dict) else None, getattr(now, name)
        if not isinstance(own, dict):
            continue
        kinds = [type(now), *variants.values()]
        if "architecture" in own:
            require_choice(f"{path}.architecture", own["architecture"], tuple(variants))
            kinds = [variants[own["architecture"]]]
        kind = _kind_of(set(own), kinds, whole="format" in content)
        if kind is not type(now):
            return _with_variants_of(content, _with_variant(default, path.split("."), kind))
    return default


def resumed(arguments: Sequence[str]) -> TrainOptions:
    """Return the options of what follows `train`, with those the run was started with as defaults.

    Raises:
        UsageError: there is no run, or an option contradicts it.
    """
    names, rest = _names_first(arguments)
    where, rest = _known(_Resumed(), rest)
    if where.config is not None:
        raise UsageError("a resumed run has its own configuration; leave out --config")
    if where.out is None and len(names) < 2:
        raise UsageError("--resume needs to know which run; give its folder by --out")
    folder = RunFolder.open(where.out or read_train([*names.values(), *rest]).folder)
    saved = replace(TrainOptions.from_json(folder.config), out=folder.path, resume=True)
    had = {part.name: getattr(saved, part.name) for part in fields(Choice)}
    named, rest = _known(NamedOptions(**had), rest)
    options = _on_top(saved, rest)
    for name, was, now in differences(asdict(saved), asdict(options) | vars(named) | names):
        if name not in FREE_TO_CHANGE:
            raise UsageError(
                f"the run in {folder.path} has {name} {was}, not {now}; leave the option out, or "
                "start another run with another --out"
            )
    return options


def _on_top(saved: TrainOptions, arguments: Sequence[str]) -> TrainOptions:
    """Return options as changed by arguments; those of the env stay or are all given."""
    options = _read(replace(saved, env_options={}), arguments)  # or they were options each
    return replace(options, env_options=options.env_options or saved.env_options)


def _kind_of(names: set[str], kinds: Sequence[Any], *, whole: bool) -> type:
    """Return the first class that has these settings, and no others if they are the `whole`."""
    for exactly in (True, False) if whole else (False,):
        for kind in kinds:
            own = {part.name for part in fields(kind)}
            if names == own or (names <= own and not exactly):
                return kind
    return kinds[0]


def _known(start: T, arguments: Sequence[str]) -> tuple[T, list[str]]:
    """Return `start` as changed by those arguments that are its options, and the others."""
    return parse(
        type(start), default=start, args=arguments, add_help=False, return_unknown_args=True
    )


def _read(default: TrainOptions, arguments: Sequence[str], *markers: Any) -> TrainOptions:
    """Return `default` as changed by arguments, read with tyro's markers, or show help.

    Raises:
        UsageError: an option is not known.
    """
    program = f"diffsurrogate train {default.method} {default.env}"
    default, arguments = _with_variants(default, list(arguments))
    everything = HELP_ALL in arguments
    options, unknown = parse(
        type(default),
        prog=program,
        description=f"Options of {default.method}, with the defaults for {default.env}. --config "
        "FILE takes them from a file of `diffsurrogate config` or a run's config.json, --seeds 0 1 "
        "trains a run for each. "
        + ("" if everything else f"{HELP_ALL} lists the settings of networks too.")
        + _variants_help(default, everything),
        args=["--help"] if everything else arguments,
        default=default,
        # of a setting that is one of several classes, no subcommands
        config=(tyro.conf.AvoidSubcommands, *markers),
        registry=_short_help() if wants_help(arguments) and not everything else None,
        return_unknown_args=True,
    )
    if unknown:
        flags = [f"--{name.replace('_', '-')}" for name in by_dotted_name(asdict(default))]
        word = next((word for word in unknown if word.startswith("-")), unknown[0])
        name = word.split("=")[0].replace("_", "-")
        if name.endswith(_GRU) and not any(flag.endswith(_GRU) for flag in _beside(name, flags)):
            raise UsageError(
                f"{default.method} has no option {name} here: networks of the kind transformer, "
                "transformer-id and dico, and those of Stable-Baselines3, have no GRU; choose "
                "another"
            )
        near = _nearest(name, flags)
        raise UsageError(
            f"{default.method} has no option {word}"
            f"{f'; did you mean {near}?' if near else ';'} {program} {HELP_ALL} lists what "
            "there is"
        )
    return options


def _beside(name: str, flags: list[str]) -> list[str]:
    """Return the options of the network that `name` is of; all if there is no such network."""
    network = name.removesuffix("gru-size")
    return [flag for flag in flags if flag.startswith(network)] or flags


def _nearest(name: str, flags: list[str]) -> str | None:
    """Return the option meant by an unknown one: of those with its last word, if there are any."""
    last = name.removeprefix("--").rpartition(".")[2]
    alike = [flag for flag in flags if flag.removeprefix("--").rpartition(".")[2] == last]
    close = difflib.get_close_matches(name, alike or flags, 1, 0.0 if alike else 0.4)
    return close[0] if close else None


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

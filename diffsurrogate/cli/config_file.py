"""Configurations as files: `diffsurrogate config` prints one, `train --config FILE` reads one."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from diffsurrogate.cli.options import TrainOptions
from diffsurrogate.errors import UsageError


def print_config(options: TrainOptions) -> int:
    """Print what `config.json` of such a run would hold, as YAML."""
    print(yaml_of(options), end="")
    return 0


def yaml_of(options: TrainOptions) -> str:
    """Return what `config.json` of such a run would hold, as YAML."""
    text: str = yaml.safe_dump(options.to_json(), sort_keys=False)
    return text


def read_settings(file: Path) -> dict[str, Any]:
    """Read a file of options by name, JSON where it is called so, else YAML.

    Raises:
        UsageError: it cannot be read, or holds no options by name.
    """
    try:
        text = file.read_text()
        if file.suffix == ".json":
            content = json.loads(text)
        else:
            content = yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UsageError(f"{file} cannot be read ({error}); give YAML or JSON") from error
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise UsageError(
            f"{file} holds no options by name; `diffsurrogate config METHOD ENV` prints an example"
        )
    return content


def words_of(content: Mapping[str, Any], known: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """Yield settings as arguments of a command line that has switches as `--name True`.

    Args:
        content: settings, nested.
        known: settings that need not be said.
        path: dotted names above, each with a dot behind it.
    """
    for name, value in content.items():
        had = known.get(name, ...)
        if value == had and type(value) is type(had):
            continue
        if isinstance(value, Mapping) and value and had != {}:  # as options of the env have
            below = had if isinstance(had, Mapping) else {}
            yield from words_of(value, below, f"{path}{name}.")
        else:
            yield from (f"--{path}{name}", *_values(value))


def _values(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for pair in value.items():
            yield from map(str, pair)
    else:
        yield from map(str, value if isinstance(value, list) else [value])

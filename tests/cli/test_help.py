"""`train METHOD ENV --help`: what the method takes, no more, and not too long; and `--help`."""

import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, get_args

import pytest

from diffsurrogate.__main__ import _COMMANDS, _imported, main
from diffsurrogate.cli.options import TrainOptions
from diffsurrogate.cli.parsing import started_as
from diffsurrogate.errors import UsageError
from diffsurrogate.presets.recipe import Choice, Method, Network, Preset

METHODS = get_args(Method)
SET_FIRST = ["--num-envs", "--total-steps", "--max-steps", "--stop-at", "--seed", "--out"]


def help_of(method: str, option: str, monkeypatch, capsys) -> str:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as stopped:
        main(["train", method, "paper/dispersion", option])
    assert stopped.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("started", "told"),
    [
        ("/usr/bin/diffsurrogate", "diffsurrogate"),
        ("/lib/diffsurrogate/__main__.py", "python -m diffsurrogate"),
        ("my envs/reach.py", "python 'my envs/reach.py'"),
        ("/lib/pytest/__main__.py", "diffsurrogate"),
    ],
)
def test_commands_to_go_on_with_begin_as_the_user_began(started, told, monkeypatch):
    monkeypatch.setattr(sys, "argv", [started])
    assert started_as() == told


def flags(text: str) -> list[str]:
    """Return the options shown, without the --no-… of switches, which may have a line too."""
    shown = re.findall(r"^[ │]+(--[a-z][\w.-]*)", text, re.MULTILINE)
    return [flag for flag in shown if flag.replace(".no-", ".") not in set(shown) - {flag}]


@pytest.mark.parametrize("method", METHODS)
def test_help_is_short_and_begins_with_what_is_set_first(method, monkeypatch, capsys):
    text = help_of(method, "--help", monkeypatch, capsys)
    assert len(text.splitlines()) <= 500
    assert set(SET_FIRST) <= set(flags(text)[:14])
    assert ".net." not in text
    default = f"default: {TrainOptions.recommended(method, 'paper/dispersion').num_envs})"
    assert default in re.sub(r"[│\s]+", " ", text.partition("--num-envs")[2])[:100]
    assert "--help-all" in text


@pytest.mark.parametrize("method", METHODS)
def test_help_shows_what_the_method_takes_and_no_more(method, monkeypatch, capsys):
    """Every setting is in --help-all, and all choices shown of network and preset are taken."""
    options = TrainOptions.recommended(method, "paper/dispersion")
    named = {"method", "env", "network", "preset"}
    content = {name: value for name, value in asdict(options).items() if name not in named}
    taken = {f"--{name.replace('_', '-')}" for name in leaves(content)}
    text = help_of(method, "--help-all", monkeypatch, capsys)
    assert set(flags(text)) - {"--network", "--preset"} == taken
    for name, values in (("network", Network), ("preset", Preset)):
        shown = re.findall(rf"--{name} \{{([^}}]*)}}", re.sub(r"[│\s]+", " ", text))
        words = shown[0].replace(" ", "").split(",") if shown else [get_args(values)[0]]
        assert words == [value for value in get_args(values) if works(method, name, value)]


def leaves(content: dict[str, Any], path: str = "") -> Iterator[str]:
    for name, value in content.items():
        nested = isinstance(value, dict) and value
        yield from leaves(value, f"{path}{name}.") if nested else [f"{path}{name}"]


def works(method: str, name: str, value: str) -> bool:
    if name == "preset" and value != "default":
        return method.startswith("shac") or (method, value) == ("ppo", "paper")
    try:
        Choice(method=method, env="paper/dispersion", **{name: value})
    except UsageError:
        return False
    return True


def test_without_method_and_env_help_says_which_there_are(capsys):
    for arguments in (["--help"], ["shac", "--help"]):
        with pytest.raises(SystemExit):
            main(["train", *arguments])
        text = capsys.readouterr().out
        assert len(text.splitlines()) < 100
        assert all(method in text for method in METHODS)
        assert "METHOD ENV --help" in " ".join(text.split())


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--help"], 0, "Train a policy"),
        (["--version"], 0, "diffsurrogate "),
        ([], 2, "Missing subcommand"),
        (["trian", "shac"], 2, "Available subcommands: train, config"),
    ],
    ids=["help", "version", "nothing", "misspelt"],
)
def test_what_needs_no_command_imports_no_torch(arguments, status, said):
    code = "import sys, runpy\ntry: runpy.run_module('diffsurrogate', run_name='__main__')\n"
    code += "finally: print('torch' in sys.modules)"
    command = [sys.executable, "-P", "-c", code, *arguments]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == status
    assert said in run.stdout + run.stderr
    assert run.stdout.endswith("False\n")


@pytest.mark.parametrize("name", _COMMANDS)
def test_a_command_is_summed_up_by_the_first_lines_of_its_own_help(name, monkeypatch, capsys):
    command = _COMMANDS[name]
    first = (inspect.getdoc(_imported(command.options)) or "").split("\n\n")[0]
    assert command.summary == first.replace("\n", " ")
    assert callable(_imported(command.run))
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as stopped:
        main([name, "--help"])
    assert stopped.value.code == 0
    assert command.summary in capsys.readouterr().out

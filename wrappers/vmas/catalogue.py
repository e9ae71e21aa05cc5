"""What VMAS has: its scenarios, their arguments, and which gradients are of use.

Measured with VMAS 1.5.2, all 41 scenarios, random actions. Also worth knowing: the rewards of
`transport`, `ball_passage` and `wheel` have a gradient only while an agent pushes something;
gradients of `buzz_wire`, `ball_trajectory`, `joint_passage` and `asym_joint` can explode (1e5 and
more), as joints are stiff; lidar that sees boxes writes in place to what backward needs.
"""

import contextlib
import importlib
import inspect
import re
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from diffsurrogate.errors import UsageError, did_you_mean

NO_GRADIENT = {
    "football": "its scripted agents write in place to what backward needs",
    "pollock": "its observation is constant, or lidar that sees boxes",
    "road_traffic": "it writes in place to what backward needs",
}
"""Scenarios without any gradient, as VMAS's backward pass crashes, and why."""
NO_REWARD_GRADIENT = {
    "dispersion": "its reward is a step function of position",
    "discovery": "its reward counts covered targets",
    "simple_tag": "its reward counts collisions",
    "simple_world_comm": "it is NaN",
    "diff_drive": "its reward is always zero",
    "drone": "its reward is always zero",
    "kinematic_bicycle": "its reward is always zero",
}
"""Scenarios whose reward gradient is useless, and why."""


def scenario_names() -> list[str]:
    """Return the names of all VMAS scenarios."""
    vmas = importlib.import_module("vmas")  # here, so that importing this module needs no VMAS
    return sorted(vmas.scenarios + vmas.debug_scenarios + vmas.mpe_scenarios)


def load_scenario(name: str) -> Any:
    """Return a new scenario object.

    Args:
        name: as in `scenario_names()`, with or without its folder (`mpe/`, `debug/`).

    Raises:
        UsageError: VMAS has no such scenario.
    """
    known = scenario_names()
    short = name.removeprefix("vmas/").removeprefix("mpe/").removeprefix("debug/")
    if short not in known:
        raise UsageError(
            f"VMAS has no scenario {name!r}; known: {', '.join(known)}{did_you_mean(short, known)}"
        )
    return importlib.import_module("vmas.scenarios").load(f"{short}.py").Scenario()


def check_arguments(scenario: Any, given: dict[str, Any]) -> None:
    """Refuse arguments that no `make_world` of the scenario's classes reads.

    VMAS itself only warns, or says nothing.

    Raises:
        UsageError: an argument is unknown; the message lists the known ones.
    """
    known = _arguments(scenario)
    if known is None:
        return
    for name in sorted(set(given) - known):
        raise UsageError(
            f"this scenario has no argument {name!r}{did_you_mean(name, known)}; it takes: "
            f"{', '.join(sorted(known)) or 'none'}"
        )


def differentiable_parts(scenario: Any) -> frozenset[str]:
    """Return what of this scenario VMAS can differentiate: a subset of dynamics, reward.

    A scenario of your own is believed to have both.
    """
    return frozenset(part for part in ("dynamics", "reward") if why_not(scenario, part) is None)


def why_not(scenario: Any, part: str) -> str | None:
    """Return why `part` (dynamics or reward) has no gradient of use; None if it has one."""
    crash = NO_GRADIENT.get(_vmas_name(scenario, "observation"))
    if part == "dynamics" or crash is not None:
        return crash
    return NO_REWARD_GRADIENT.get(_vmas_name(scenario, "reward"))


def is_ours(scenario: Any) -> bool:
    """Return whether all of a scenario's code is VMAS's or this package's, none of it a user's."""
    folders = _vmas_folder().parent, Path(__file__).parent
    methods = [
        method
        for cls in type(scenario).__mro__[:-1]
        for method in vars(cls).values()
        if inspect.isroutine(method) or isinstance(method, property)
    ]
    methods += [held for held in vars(scenario).values() if inspect.isroutine(held)]
    return all(any(folder in _file(one).parents for folder in folders) for one in methods)


def _file(method: Any) -> Path:
    """Return where a method was written; nowhere if that is not known."""
    method = method.fget if isinstance(method, property) else method
    code = getattr(inspect.unwrap(getattr(method, "__func__", method)), "__code__", None)
    return Path("" if code is None else code.co_filename)


def _arguments(scenario: Any) -> set[str] | None:
    """Return what `make_world` takes; None where only running it can tell."""
    known: set[str] = set()
    for cls in type(scenario).__mro__:
        make_world = vars(cls).get("make_world")
        if make_world is None or getattr(make_world, "__isabstractmethod__", False):
            continue
        path = Path(inspect.unwrap(make_world).__code__.co_filename)
        if path.parent == Path(__file__).parent:
            text = inspect.getsource(make_world)
        elif _vmas_folder() in path.parents:
            text = path.read_text()
        else:
            return None
        read = r"kwargs\.(?:pop|get|setdefault)\(\s*[\"'](\w+)[\"']"
        known |= set(re.findall(read, text))
    return known


def _vmas_name(scenario: Any, method: str) -> str:
    """Return the name of the VMAS scenario that wrote this method, or the one it wraps; or "".

    VMAS loads scenarios without a module name, so the code's file has to tell.
    """
    code = getattr(inspect.unwrap(getattr(type(scenario), method)), "__code__", None)
    if code is None:
        return ""
    path = Path(code.co_filename)
    return path.stem if _vmas_folder() in path.parents else ""


def _vmas_folder() -> Path:
    file = importlib.import_module("vmas").__file__
    assert file is not None
    return Path(file).parent / "scenarios"


@contextlib.contextmanager
def made_of(options: Mapping[str, Any]) -> Iterator[None]:
    """Turn what a scenario asserts of its options while it is made into advice.

    Raises:
        UsageError: an assertion does not hold.
    """
    try:
        yield
    except AssertionError as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        needed = str(place.line).removeprefix("assert ")
        raise UsageError(
            f"the scenario refuses its options {dict(options)}: it needs {needed!r}, line "
            f"{place.lineno} of {Path(place.filename).name}{f' ({error})' if str(error) else ''}"
        ) from error

"""The layout holds: who imports whom, what users import, how large rooms get, what has docs."""

import ast
import importlib.util
import re
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from functools import cache
from importlib.machinery import SourceFileLoader
from pathlib import Path

import pytest
import torch

import diffsurrogate
from diffsurrogate import algorithms, wrappers
from diffsurrogate.functional.losses import expectile_loss
from diffsurrogate.seeding import derive_seed

ROOT = Path(__file__).parent.parent
FOLDERS = {
    "diffsurrogate": "diffsurrogate",
    "wrappers": "diffsurrogate.wrappers",
    "algorithms": "diffsurrogate.algorithms",
}
ADAPTERS = {
    "vmas": "wrappers/vmas/",
    "mujoco": ("wrappers/mujoco/", "wrappers/mjx/"),
    "jax": ("wrappers/jax/", "wrappers/jaxmarl/"),
    "jaxmarl": "wrappers/jaxmarl/",
    "pettingzoo": "wrappers/pettingzoo/",
    "mpe2": "wrappers/pettingzoo/",
    "stable_baselines3": "wrappers/sb3/",
}
"""Libraries, and the folder, or the few, that may import each."""
FOR_EVERYBODY = {"errors", "seeding", "config", "distributed", "optimisation"}
MAY_IMPORT = {
    "errors": set(),
    "config": {"errors"},
    "seeding": {"errors", "config"},
    "distributed": {"errors", "seeding"},
    "optimisation": {"distributed"},
    "functional": set(),
    "envs": {"functional"},
    "data": {"envs"},
    "nets": {"functional"},
    "actor_critic": {"nets", "envs", "functional"},
    "surrogates": {"nets", "data", "envs", "functional"},
    "gradients": {"surrogates", "data", "envs", "functional"},
    "training": {"actor_critic", "envs"},
    "algorithms": {"training", "actor_critic", "nets", "data", "envs", "functional"},
    "wrappers": {"gradients", "surrogates", "data", "envs", "functional", "training"},
}
"""What each room may import, beside itself and what is for everybody; who is not here, all."""
EXTERNAL = "wrappers/external"
ALSO_IN_WRAPPERS = {"mujoco": {"gymnasium", "pettingzoo"}, "jaxmarl": {"jax"}, "mjx": {"jax"}}
"""Adapter folders import `external`, the modules of `wrappers/` itself, and these neighbours."""
MAX_MODULES = 12
MAX_LINES = 600
MIN_LINES = 40
UNDOCUMENTED = {"forward"}  # its class says what it computes
MACHINE_PATHS = re.compile(r"(?<![\w.-])/(work|root|tmp|home|Users|opt|mnt|workspace)/[\w.]")


def tracked() -> list[Path]:
    """Every file git has or would take; without git (an sdist), whatever lies in our folders."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listing = ""
    if shutil.which("git") is not None and (ROOT / ".git").exists():
        listing = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=False
        ).stdout
    if listing:
        files = [ROOT / entry for entry in listing.split("\0") if entry]
    else:
        files = [
            path
            for folder in (*FOLDERS, "tests", "examples")
            for path in (ROOT / folder).rglob("*")
            if "__pycache__" not in path.parts
        ]
    return sorted(path for path in files if path.is_file())


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


PYTHON = [path for path in tracked() if path.suffix == ".py"]
PACKAGE = [path for path in PYTHON if name(path).split("/")[0] in FOLDERS]


def each_of(paths: list[Path]) -> Callable[[Callable[[Path], None]], Callable[[], None]]:
    """Make one test of a rule about a file: it lists all files that break it."""

    def decorate(rule: Callable[[Path], None]) -> Callable[[], None]:
        def test() -> None:
            broken = []
            for path in paths:
                try:
                    rule(path)
                except AssertionError as error:
                    broken.append(f"{name(path)}: {error}")
            assert not broken, "\n".join(broken)

        return test

    return decorate


every_python_file = each_of(PYTHON)
every_package_file = each_of(PACKAGE)


def module_of(path: Path) -> str:
    folder, _, rest = name(path).removesuffix(".py").partition("/")
    parts = [FOLDERS[folder], *rest.split("/")]
    return ".".join(parts).removesuffix(".__init__")


MODULES = {module_of(path) for path in PACKAGE}


@cache
def imports(path: Path) -> list[tuple[str, int]]:
    """Return what a file imports, anywhere in it, and where: `from a import b` is `a.b`."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            found += [(f"{module}.{alias.name}", node.lineno) for alias in node.names]
    return found


def room_of(module: str) -> str:
    """Return the second part of a dotted name: a folder, or a module of the top level."""
    return module.split(".")[1] if "." in module else "the façade"


def ours(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the modules of ours that a file imports, and where it does."""
    for target, line in imports(path):
        if target.split(".")[0] == "diffsurrogate":
            module = target if target in MODULES else target.rpartition(".")[0]
            yield module, f"line {line}: {target}"


def test_the_walk_finds_the_package():
    assert {"diffsurrogate/envs/env.py", "wrappers/learned.py", "algorithms/shac.py"} <= {
        name(path) for path in PACKAGE
    }


@every_package_file
def test_rooms_import_only_what_they_may(path):
    room = room_of(module_of(path))
    if room not in MAY_IMPORT:
        return
    allowed = MAY_IMPORT[room] | (FOR_EVERYBODY if room not in FOR_EVERYBODY else set()) | {room}
    strays = [where for module, where in ours(path) if room_of(module) not in allowed]
    assert not strays, f"{room} may import {sorted(allowed)}, not {strays}"


@every_package_file
def test_adapters_share_only_what_is_for_all_of_them(path):
    parts = name(path).split("/")
    if parts[0] != "wrappers" or len(parts) < 3:
        return
    folder = parts[1]
    allowed = {folder, "external"} | ALSO_IN_WRAPPERS.get(folder, set())
    strays = [
        where
        for module, where in ours(path)
        if module.startswith("diffsurrogate.wrappers.")
        and module.count(".") > 2
        and module.split(".")[2] not in allowed
    ]
    assert not strays, f"wrappers/{folder} may import {sorted(allowed)}, not {strays}"


@every_package_file
def test_nobody_inside_imports_the_facade(path):
    top_level = [where for module, where in ours(path) if module == "diffsurrogate"]
    assert not top_level, f"import from the module that defines it, not the façade: {top_level}"


@every_python_file
def test_imports_are_absolute_and_through_the_package(path):
    bare = [
        f"line {line}: {module}"
        for module, line in imports(path)
        if module.startswith(".") or module.split(".")[0] in {"wrappers", "algorithms"}
    ]
    assert not bare, f"write diffsurrogate.…: a bare import loads a second copy: {bare}"


@every_package_file
def test_a_simulator_is_imported_only_in_its_adapter(path):
    strays = [
        f"line {line}: {module}"
        for module, line in imports(path)
        if (simulator := module.split(".")[0]) in ADAPTERS
        and not name(path).startswith(ADAPTERS[simulator])
        and name(path) != f"wrappers/external/{simulator}_warnings.py"
    ]
    assert not strays, f"{name(path)} is not the adapter of {strays}"


def documented_parts(tree: ast.Module) -> Iterator[tuple[str, ast.AST]]:
    """Yield the module and its public classes, functions and methods; not what is nested."""
    yield "the module", tree
    for node in tree.body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef) or node.name.startswith("_"):
            continue
        yield node.name, node
        for method in node.body if isinstance(node, ast.ClassDef) else ():
            if isinstance(method, ast.FunctionDef) and not (
                method.name.startswith("_") or method.name in UNDOCUMENTED
            ):
                yield f"{node.name}.{method.name}", method


@every_package_file
def test_everything_public_is_documented(path):
    bare = [
        part
        for part, node in documented_parts(ast.parse(path.read_text()))
        if ast.get_docstring(node) is None
    ]
    assert not bare, f"{name(path)}: no docstring on {bare}"


@every_python_file
def test_a_file_can_be_read_in_one_sitting(path):
    lines = len(path.read_text().splitlines())
    assert lines <= MAX_LINES, f"{name(path)} has {lines} lines; split it by idea"


def test_no_folder_has_too_many_modules():
    modules = Counter(name(path.parent) for path in PACKAGE if path.stem != "__init__")
    crowded = {folder: count for folder, count in modules.items() if count > MAX_MODULES}
    assert not crowded, f"more than {MAX_MODULES} modules: {crowded}; part them by idea"


def test_a_small_module_has_more_than_one_reader():
    readers = defaultdict(set)
    for path in PYTHON:
        if "tests" not in path.parts and path.stem != "__init__":  # a public name is reason enough
            for module, _ in ours(path):
                readers[module].add(path)
    cupboards = [
        name(path)
        for path in PACKAGE
        if not path.stem.startswith("__")
        and len(path.read_text().splitlines()) < MIN_LINES
        and len(readers[module_of(path)]) == 1
    ]
    assert not cupboards, f"put these into the one module that reads them: {cupboards}"


def test_there_is_no_utils():
    assert not [name(path) for path in PYTHON if path.stem in {"utils", "util", "helpers", "misc"}]


def test_no_file_names_a_path_of_somebodys_machine():
    found = []
    for path in tracked():
        if path == Path(__file__) or name(path) == "LICENSE":
            continue
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue  # a picture or the like
        found += [
            f"{name(path)}:{number}: {match[0]}…"
            for number, line in enumerate(text.splitlines(), 1)
            if (match := MACHINE_PATHS.search(line))
        ]
    assert not found


@every_package_file
def test_shapes_are_checked_in_this_run(path):
    if path.name == "__init__.py":
        # An editable install finds the __init__ of wrappers and algorithms past the import hook.
        code = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        found = [node for node in ast.parse(path.read_text()).body if isinstance(node, code)]
        assert {node.name for node in found} <= {"__getattr__", "__dir__"}
        return
    spec = importlib.util.find_spec(module_of(path))
    assert spec is not None
    assert type(spec.loader) is not SourceFileLoader, "not imported through jaxtyping's hook"


def test_neither_another_shape_nor_another_type_passes_in_this_run():
    with pytest.raises(Exception, match="whilst typechecking parameter 'target'"):
        expectile_loss(torch.zeros(2), torch.zeros(3), expectile=0.5)
    with pytest.raises(Exception, match="violates type hint"):
        derive_seed("1", "noise")


PAGES = [path for path in tracked() if path.suffix == ".md"]


def anchors(page: Path) -> set[str]:
    """Return what a link may name after #: the headings, as GitHub writes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}


@each_of(PAGES)
def test_links_between_pages_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if link.startswith(("https://", "http://")):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), f"{name(page)} links to {link}"
        if anchor:
            assert anchor in anchors(target), f"{name(page)} links to {link}"


@pytest.mark.parametrize("package", [algorithms, wrappers], ids=["algorithms", "wrappers"])
def test_packages_hand_out_what_their_modules_define(package):
    for name in package.__all__:
        found = getattr(package, name)
        assert found is getattr(diffsurrogate, name, found)
        assert found.__module__.startswith(f"{package.__name__}.")
    with pytest.raises(AttributeError, match="attribute nothing"):
        _ = package.nothing


def test_importing_the_package_needs_no_extra():
    """Nor does the command line, which draws nothing before it has something to draw."""
    heavy = "{'vmas', 'mujoco', 'jax', 'pettingzoo', 'stable_baselines3', 'matplotlib', 'scipy', "
    heavy += "'onnx', 'onnxscript', 'onnxruntime'}"
    code = "import sys, diffsurrogate.__main__\nfrom diffsurrogate import *\n"
    code += f"import diffsurrogate.cli.train; print({heavy} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, check=True)
    assert run.stdout.decode().strip() == "set()"


def test_modules_are_attributes_whatever_was_imported_before():
    code = "import diffsurrogate; print(diffsurrogate.wrappers.SplitAgents.__name__)"
    run = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, check=True)
    assert run.stdout.decode().strip() == "SplitAgents"


def test_all_public_names_are_there():
    assert {"SHAC", "LearnedDiffWrapper", "make"} <= set(dir(diffsurrogate))
    for name in diffsurrogate.__all__:
        assert getattr(diffsurrogate, name).__name__ == name


def test_the_version_is_the_same_everywhere():
    given = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert given is not None
    assert f"\nversion: {given[1]}\n" in (ROOT / "CITATION.cff").read_text()
    newest = re.search(r"^## \[(.+)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert newest[1] in (given[1], "Unreleased")

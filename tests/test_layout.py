"""The layout holds: who imports whom, what is documented, how long a file gets."""

import ast
import importlib.util
import re
import shutil
import subprocess
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = {
    "diffsurrogate": "diffsurrogate",
    "wrappers": "diffsurrogate.wrappers",
    "algorithms": "diffsurrogate.algorithms",
}
SIMULATORS = {"vmas", "mujoco", "jax", "jaxmarl", "pettingzoo", "mpe2", "stable_baselines3"}
ADAPTERS = {
    "vmas": r"wrappers/(vmas\w*|scenarios/\w+)\.py",
    "mujoco": r"wrappers/mujoco\w*\.py",
    "jax": r"wrappers/jax\w*\.py",
    "jaxmarl": r"wrappers/jax\w*\.py",
    "pettingzoo": r"wrappers/pettingzoo\w*\.py",
    "mpe2": r"wrappers/pettingzoo\w*\.py",
    "stable_baselines3": r"wrappers/sb3\w*\.py",
}
FACADE = r"diffsurrogate/(__init__|__main__|cli/\w+)\.py"
MAX_LINES = 400
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
every_python_file = pytest.mark.parametrize("path", PYTHON, ids=name)
every_package_file = pytest.mark.parametrize("path", PACKAGE, ids=name)


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Yield what a file imports, anywhere in it: `from a import b` is `a.b`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield from ((f"{module}.{alias.name}", node.lineno) for alias in node.names)


def layer(path: Path) -> str:
    if re.fullmatch(FACADE, name(path)):
        return "façade"
    folder = name(path).split("/")[0]
    return "core" if folder == "diffsurrogate" else folder


def submodules() -> set[str]:
    """Names that may follow `from diffsurrogate import`: modules, not re-exported objects."""
    return {path.stem for path in (ROOT / "diffsurrogate").glob("*.py")} | {*FOLDERS, "cli"}


TOP = {"diffsurrogate.__main__", "diffsurrogate.__init__", "diffsurrogate.cli"}
FORBIDDEN = {
    "core": {"diffsurrogate.wrappers", "diffsurrogate.algorithms"} | TOP,
    "wrappers": {"diffsurrogate.algorithms"} | TOP,
    "algorithms": {"diffsurrogate.wrappers"} | TOP,
    "façade": set(),
}


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def test_the_walk_finds_the_package():
    assert {"diffsurrogate/envs/env.py", "wrappers/__init__.py", "algorithms/__init__.py"} <= {
        name(path) for path in PACKAGE
    }


@every_package_file
def test_imports_point_down_the_layers(path):
    upward = [
        f"line {line}: {module}"
        for module, line in imports(path)
        if any(within(module, package) for package in FORBIDDEN[layer(path)])
    ]
    assert not upward, f"{name(path)} is {layer(path)} and may not import {upward}"


@every_package_file
def test_nobody_inside_imports_the_facade(path):
    top_level = [
        f"line {line}: {module}"
        for module, line in imports(path)
        if module == "diffsurrogate"
        or (within(module, "diffsurrogate") and module.split(".")[1] not in submodules())
    ]
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
        if (simulator := module.split(".")[0]) in SIMULATORS
        and not re.fullmatch(ADAPTERS[simulator], name(path))
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
        assert not any(isinstance(node, code) for node in ast.parse(path.read_text()).body)
        return
    folder, _, rest = name(path).removesuffix(".py").partition("/")
    spec = importlib.util.find_spec(".".join([FOLDERS[folder], *rest.split("/")]))
    assert spec is not None
    assert type(spec.loader) is not SourceFileLoader, "not imported through jaxtyping's hook"


PAGES = [path for path in tracked() if path.suffix == ".md"]


def anchors(page: Path) -> set[str]:
    """Return what a link may name after #: the headings, as GitHub writes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_between_pages_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if link.startswith(("https://", "http://")):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), f"{name(page)} links to {link}"
        if anchor:
            assert anchor in anchors(target), f"{name(page)} links to {link}"

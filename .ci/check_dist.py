"""Check that dist/ holds one wheel with `diffsurrogate` alone in it and one complete sdist."""

import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
INSTALLED_AS = {
    "diffsurrogate": "diffsurrogate",
    "wrappers": "diffsurrogate/wrappers",
    "algorithms": "diffsurrogate/algorithms",
}
ALSO_IN_SDIST = ["LICENSE", "README.md", "CHANGELOG.md", "Makefile", "constraints.txt"]


def only(pattern: str) -> Path:
    """Return the one file in dist/ that matches."""
    found = sorted((ROOT / "dist").glob(pattern))
    if len(found) != 1:
        sys.exit(f"dist/ should hold one {pattern}, found {[path.name for path in found]}")
    return found[0]


def sources(folder: str) -> list[str]:
    """Return the Python files and stubs under a folder of the checkout, relative to it."""
    files = (path for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".pyi"))
    return [path.relative_to(ROOT).as_posix() for path in sorted(files)]


def main() -> None:
    """Exit with a list of what is missing or unwanted."""
    wanted = {"diffsurrogate/py.typed"}
    for folder, package in INSTALLED_AS.items():
        wanted |= {package + name.removeprefix(folder) for name in sources(folder)}
    with zipfile.ZipFile(only("*.whl")) as wheel:
        in_wheel = {name for name in wheel.namelist() if ".dist-info/" not in name}
    with tarfile.open(only("*.tar.gz")) as sdist:
        in_sdist = {name.partition("/")[2] for name in sdist.getnames()}
    wanted_sdist = {*ALSO_IN_SDIST, *(s for f in [*INSTALLED_AS, "tests"] for s in sources(f))}
    problems = [f"not in the wheel: {name}" for name in sorted(wanted - in_wheel)]
    problems += [f"unwanted in the wheel: {name}" for name in sorted(in_wheel - wanted)]
    problems += [f"not in the sdist: {name}" for name in sorted(wanted_sdist - in_sdist)]
    if problems:
        sys.exit("\n".join(problems))
    print(f"wheel: {len(in_wheel)} files, all under diffsurrogate/; sdist: {len(in_sdist)} entries")


if __name__ == "__main__":
    main()

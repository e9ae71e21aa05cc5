"""What the pages of examples/envs show runs, parses and is complete."""

import re
import shlex
from pathlib import Path

import pytest

from diffsurrogate.__main__ import _COMMANDS, _parse
from diffsurrogate.envs import registry
from diffsurrogate.envs.registry import known_ids, namespaces

FOLDER = Path(__file__).parent.parent / "examples" / "envs"
PAGES = sorted(page for page in FOLDER.glob("*.md") if page.name != "README.md")
INDEX = (FOLDER / "README.md").read_text()
NEEDS = {
    "mujoco": "gymnasium_robotics",
    "pettingzoo": "mpe2",
    "export": "pettingzoo",
    "stable_baselines3": "stable_baselines3",
}
"""What a page's examples import besides, where it may be missing."""
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # model files of MuJoCo
    pytest.mark.filterwarnings("ignore:Force limits not specified:UserWarning"),  # VMAS's
]
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


@pytest.fixture(autouse=True)
def _forget(monkeypatch, tmp_path):
    """What an example registers is forgotten after it, and what it writes goes elsewhere."""
    for name in ("_FACTORIES", "_ADAPTERS", "_IDS"):
        monkeypatch.setattr(registry, name, dict(getattr(registry, name)))
    monkeypatch.chdir(tmp_path)


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)


@every_page
def test_the_examples_run(page, capsys):
    if page.stem in NEEDS:
        pytest.importorskip(NEEDS[page.stem])
    code = blocks(page, "py")
    assert code
    for number, block in enumerate(code):
        exec(compile(block, f"{page.name}, example {number + 1}", "exec"), {})
    assert "nan" not in capsys.readouterr().out


@every_page
def test_the_command_lines_are_understood(page):
    for block in blocks(page, "sh"):
        for line in block.splitlines():
            program, *arguments = shlex.split(line, comments=True)
            if program == "python":  # a script of the user's, which ends in the command line
                arguments = arguments[1:]
            assert type(_parse(arguments)) in _COMMANDS


@every_page
def test_a_page_is_in_the_index_and_its_links_lead_somewhere(page):
    assert f"]({page.name})" in INDEX
    for link in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
        assert (FOLDER / link).exists(), link


@pytest.mark.parametrize("namespace", namespaces())
def test_every_namespace_has_a_page(namespace):
    assert any(f"{namespace}/" in page.read_text() for page in PAGES)
    index = INDEX.partition("<!-- table: begin -->")[0].splitlines()
    assert [line for line in index if ".md)" in line and f"`{namespace}/…`" in line]


@pytest.mark.parametrize(
    "namespace", ["diffsurrogate", "gymnasium", "jaxmarl", "mpe2", "paper", "vmas"]
)
def test_the_table_names_every_id_that_is_listed(namespace):
    ids = known_ids(namespace) or []
    table = INDEX.partition("<!-- table: begin -->")[2]
    assert ids
    for env_id in ids:
        row = f"| `{env_id}` |" in table
        assert row or f"`{env_id.removeprefix(f'{namespace}/')}`" in table, env_id

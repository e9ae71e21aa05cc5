"""What README and docs show runs, parses and is complete; long trainings on a smaller budget."""

import re
import shlex
import warnings
from collections.abc import Callable
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffsurrogate import recommended
from diffsurrogate.__main__ import _parse, main
from diffsurrogate.cli.arguments import each_seed, read_train
from diffsurrogate.envs import registry
from diffsurrogate.envs.registry import known_ids, namespaces

ROOT = Path(__file__).parent.parent
ENVS = ROOT / "docs" / "envs"
WALKED = ROOT / "docs" / "from_stable_baselines3.md"
"""The page that test_tutorial.py runs, block by block."""
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
ENV_PAGES = sorted(page for page in ENVS.glob("*.md") if page.name != "index.md")
INDEX = (ENVS / "index.md").read_text()
NEEDS = {
    "mujoco": "gymnasium_robotics",
    "pettingzoo": "mpe2",
    "export": "pettingzoo",
    "stable_baselines3": "stable_baselines3",
    "baselines": "stable_baselines3",
}
"""What a page's examples import besides, where it may be missing."""
NOT_PARSED = ("--resume", "--help", "--help-all")
"""Words of command lines that need a run, or end the program."""
RUN = ["ppo", "gymnasium/Pendulum-v1", "--num-envs", "2", "--eval-envs", "2", "--film-steps", "0"]
RUN += ["--total-steps", "64", "--ppo.horizon", "8"]
"""The run whose policy is loaded."""
MAX_STEPS = 512
"""Of the trainings on the pages: what is more is cut down to this."""
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # model files of MuJoCo
    pytest.mark.filterwarnings("ignore:Brax System, piplines and environments:UserWarning"),
    pytest.mark.filterwarnings("ignore:Force limits not specified:UserWarning"),  # VMAS's
]
Names = dict[str, Any]


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


BLOCKS = [
    pytest.param(page, code, id=f"{name(page)}-{number + 1}")
    for page in PAGES
    if page != WALKED
    for number, code in enumerate(blocks(page, "python"))
]
every_env_page = pytest.mark.parametrize("page", ENV_PAGES, ids=lambda page: page.stem)


@pytest.fixture(autouse=True)
def _forget(monkeypatch, tmp_path):
    """What an example registers is forgotten after it, and what it writes goes elsewhere."""
    for registered in ("_FACTORIES", "_ADAPTERS", "_IDS"):
        monkeypatch.setattr(registry, registered, dict(getattr(registry, registered)))
    monkeypatch.chdir(tmp_path)


def small(code: str) -> str:
    """Return the code with trainings and envs cut down to what a test has time for."""

    def fewer(found: re.Match[str]) -> str:
        return f"{found[1]}{min(int(found[2].replace('_', '')), MAX_STEPS)}"

    code = re.sub(r"(learn\((?:total_steps=)?)([\d_]+)", fewer, code)
    code = code.replace("num_envs=512", "num_envs=16").replace("progress_bar=True", "")
    if "stable_baselines3 import SAC" in code:  # a gradient step per step of the env
        code = re.sub(r"learn\(\d+", "learn(200", code).replace("num_envs=64", "num_envs=5")
    return code


def check_ten_lines(code: str, names: Names, output: str) -> None:
    assert len(code.strip().splitlines()) <= 10
    assert 0 <= float(output.split()[-1]) <= 1
    assert Path("agent.pt").is_file()


def check_recipe_of_transport(code: str, names: Names, output: str) -> None:
    """The hybrid update as it is shown is the recipe's."""
    recipe = recommended("shac++", "paper/transport")
    assert names["surrogates"] == recipe.surrogates
    assert names["config"] == recipe.config


def check_recipe_of_cartpole(code: str, names: Names, output: str) -> None:
    """Python trains CartPole as the command line does."""
    recipe = recommended("shac++", "gymnasium/CartPole-v1")
    assert names["agent"].config == recipe.config
    assert names["env"].config == recipe.surrogates
    assert names["env"].num_envs == recipe.run.num_envs


def check_shown_recipe(code: str, names: Names, output: str) -> None:
    """The command line named beside it starts from the same."""
    text = (ROOT / "README.md").read_text()
    (line,) = re.findall(r"This trains what `diffsurrogate train ([^`]*)`", text.replace("\n", " "))
    options = read_train(line.split())
    assert names["recipe"] == options.recipe
    assert names["agent"].seed == options.seed


def check_sb3(code: str, names: Names, output: str) -> None:
    assert np.isfinite(names["result"].mean_return)


CHECKS: dict[tuple[str, str], Callable[[str, Names, str], None]] = {
    ("README.md", "agent.save"): check_ten_lines,
    ("README.md", "recommended("): check_shown_recipe,
    ("docs/gradients.md", "SHACConfig("): check_recipe_of_transport,
    ("docs/gradients.md", "CartPole"): check_recipe_of_cartpole,
    ("docs/baselines.md", "SB3VecEnv"): check_sb3,
}
"""What the example of a page that has these words must have led to."""


@pytest.mark.parametrize(("page", "code"), BLOCKS)
def test_an_example_runs(page, code, capsys):
    if page.stem in NEEDS:
        pytest.importorskip(NEEDS[page.stem])
    if "from brax" in code:
        pytest.importorskip("brax")
    if "import envpool" in code:
        pytest.importorskip("envpool")
        warnings.filterwarnings("ignore", ".*precision lowered")  # by its own spaces
    if found := re.search(r'load_policy\("(.*)"\)', code):
        assert main(["train", *RUN, "--out", found[1]]) == 0
        capsys.readouterr()
    names: Names = {}
    exec(compile(small(code), name(page), "exec"), names)
    output = capsys.readouterr().out
    assert "nan" not in output
    for (of, words), check in CHECKS.items():
        if name(page) == of and words in code:
            check(code, names, output)


@pytest.mark.parametrize(("of", "words"), CHECKS, ids=lambda value: value)
def test_the_examples_that_are_checked_further_are_there(of, words):
    assert sum(words in code for code in blocks(ROOT / of, "python")) == 1


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_block_says_what_it_is_and_none_escapes_the_test(page):
    languages = re.findall(r"^```(\S*)\n(?:.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    assert set(languages) <= {"python", "sh", "{toctree}", "{eval-rst}"}


@pytest.mark.parametrize("page", [page for page in PAGES if page != WALKED], ids=name)
def test_the_command_lines_are_understood(page, capsys):
    for block in blocks(page, "sh"):
        for line in block.splitlines():
            program, *arguments = shlex.split(line, comments=True)
            if program == "make":
                assert f"\n{arguments[0]}:" in (ROOT / "Makefile").read_text()
                continue
            if program == "python":  # a script of the user's, which ends in the command line
                arguments = arguments[2:] if arguments[0] == "-m" else arguments[1:]
            if program == "torchrun":
                arguments = arguments[arguments.index("diffsurrogate") + 1 :]
            if ">" in arguments:
                assert main(arguments[: arguments.index(">")]) == 0
                Path(arguments[-1]).write_text(capsys.readouterr().out)
                continue
            arguments = [word for word in arguments if word not in NOT_PARSED]
            runs = [arguments]
            if "--seeds" in arguments and arguments[0] == "train":
                runs = [["train", *words] for words in each_seed(arguments[1:])]
            assert all(is_dataclass(_parse(words)) for words in runs)


def test_the_readme_can_be_read_in_five_minutes():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200


@every_env_page
def test_a_page_has_an_example_and_is_in_the_index(page):
    assert blocks(page, "python")
    assert f"]({page.name})" in INDEX


@pytest.mark.parametrize("namespace", namespaces())
def test_every_namespace_has_a_page(namespace):
    assert any(f"{namespace}/" in page.read_text() for page in ENV_PAGES)
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

"""Pyright, in its default mode, finds no error in what users write, the package being installed.

`make types` checks the package itself, the examples and the benchmarks.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from toys import users_script

from diffsurrogate.__main__ import main

ROOT = Path(__file__).parent.parent
SCRIPT = Path(users_script.__file__)


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """Return a folder with the package as an install has it, which an editable one has not."""
    package = tmp_path / "site" / "diffsurrogate"
    package.mkdir(parents=True)
    for path in (*(ROOT / "diffsurrogate").iterdir(), ROOT / "wrappers", ROOT / "algorithms"):
        (package / path.name).symlink_to(path)
    return package.parent


def test_pyright_finds_no_error_in_what_users_write(installed, tmp_path):
    pytest.importorskip("pyright")
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    for path in (SCRIPT, ROOT / "examples" / "own_env.py"):
        shutil.copy(path, scripts)
    readme = (ROOT / "README.md").read_text()
    for number, code in enumerate(re.findall(r"^```python\n(.*?)^```", readme, re.S | re.M)):
        (scripts / f"readme_{number}.py").write_text(code)
    types = "from diffsurrogate import SHAC, load_policy, make\nenv = make('a/b')\n"
    types += "reveal_type(SHAC.load('a', env))\nreveal_type(load_policy('a'))\nreveal_type(env)\n"
    (scripts / "types.py").write_text(types)
    options = {"extraPaths": [str(installed)], "include": ["scripts"]}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(options))
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "--outputjson"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    told = json.loads(run.stdout)
    assert told["summary"]["filesAnalyzed"] == 5
    said = [f"{one['file']}: {one['message']}" for one in told["generalDiagnostics"]]
    assert [line.rpartition(" is ")[2] for line in said] == [
        '"SHAC"',
        '"TrainedPolicy"',
        '"MultiAgentVectorEnv"',
    ], said


def test_that_script_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    small = ["--num-envs", "2", "--eval-envs", "2", "--film-steps", "0", "--total-steps", "64"]
    run = ["train", "ppo", "gymnasium/Pendulum-v1", *small, "--ppo.horizon", "8", "--out", "run"]
    assert main(run) == 0
    capsys.readouterr()
    users_script.main()
    assert "nothing/there" in capsys.readouterr().out

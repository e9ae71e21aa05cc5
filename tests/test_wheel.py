"""The wheel works in an environment with nothing else in it: README's ten lines, from elsewhere."""

import os
import re
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command and return what it printed."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(command, cwd=cwd, env=clean, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_ten_lines_of_the_readme_run_with_the_wheel_alone(tmp_path):
    pytest.importorskip("build")
    run(sys.executable, "-m", "build", "--outdir", tmp_path, cwd=ROOT)  # the wheel of the sdist
    (wheel,) = tmp_path.glob("*.whl")
    venv.create(tmp_path / "venv", with_pip=True)
    programs = tmp_path / "venv" / "bin"
    constraints = ("--constraint", ROOT / "constraints.txt")
    run(programs / "python", "-m", "pip", "install", *constraints, f"{wheel}[vmas]", cwd=tmp_path)
    run(programs / "python", "-m", "pip", "check", cwd=tmp_path)
    code = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.S | re.M)[0]
    code = re.sub("num_envs=[0-9]+", "num_envs=8", code).replace("800_000", "512")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "script.py").write_text(f"import diffsurrogate\n{code}print(diffsurrogate)\n")
    *_, value, module = run(programs / "python", "script.py", cwd=elsewhere).splitlines()
    assert 0 <= float(value) <= 1
    assert str(tmp_path / "venv") in module
    assert (elsewhere / "agent.pt").is_file()
    assert run(programs / "diffsurrogate", "--version", cwd=elsewhere).startswith("diffsurrogate ")

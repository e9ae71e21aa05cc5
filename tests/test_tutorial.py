"""The way from Stable-Baselines3, walked as its page says in an empty folder, with fewer steps."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "from_stable_baselines3.md").read_text()
FEWER = {
    "--trials 10": "--trials 2",
    "12288 ": "2048 ",
    "12288\n": "2048\n",
    "40960": "2048",
    "--seeds 1 2 3": "--seeds 1 2 --eval-envs 4 --film-steps 0",
    "40_000": "2_048",
    "num_envs=64": "num_envs=4",
}
LEFT_OUT = ("python -m diffsurrogate doctor",)  # races for half a minute, and has tests of its own


def blocks(language: str) -> list[str]:
    found: list[str] = re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    return found


def fewer(text: str) -> str:
    for usual, small in FEWER.items():
        text = text.replace(usual, small)
    return text


def test_the_way_from_stable_baselines3(tmp_path, monkeypatch):
    for library in ("stable_baselines3", "wandb", "optuna", "onnxruntime", "onnxscript"):
        pytest.importorskip(library)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    shutil.copy(ROOT / "examples" / "track.py", tmp_path)

    def run(*command: str) -> str:
        done = subprocess.run(
            [sys.executable, *command],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=170,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    before, after, ours, alone = (fewer(code) for code in blocks("python"))
    (lines,) = (fewer(code) for code in blocks("sh"))
    assert "(" in run("-c", before)
    assert float(run("-c", after).splitlines()[-1]) <= 100
    assert (tmp_path / "best.pt").is_file()
    for line in lines.splitlines():
        if not line.startswith(LEFT_OUT):
            run(*line.split()[1:])
    assert (tmp_path / "runs" / "track" / "report.html").is_file()
    assert len(list((tmp_path / "runs" / "track").glob("seed-*/wandb/offline-run-*"))) == 2
    assert float(run("-c", ours)) == pytest.approx(float(run("-c", alone)), abs=1e-3)

"""`diffsurrogate envs` lists what there is, and says what is missing."""

import subprocess
import sys

import pytest

from diffsurrogate import make, register_env
from diffsurrogate.__main__ import main
from diffsurrogate.envs import registry
from diffsurrogate.envs.registry import known_ids, namespaces
from diffsurrogate.errors import UsageError

WITHOUT_EXTRAS = """
import sys
sys.modules |= dict.fromkeys(["vmas", "pettingzoo", "mpe2", "mujoco", "jaxmarl"])
from diffsurrogate import UsageError, make
from diffsurrogate.__main__ import main
main(["envs"])
for env in ("mujoco/HalfCheetah-v5", "mamujoco/HalfCheetah-6x1", "gymnasium/HalfCheetah-v5"):
    try:
        make(env, num_envs=1)
    except UsageError as error:
        print(error)
sys.exit(main(["doctor", "mujoco/HalfCheetah-v5"]))
"""


@pytest.fixture(autouse=True)
def _forget(monkeypatch):
    """What a test registers is forgotten after it."""
    monkeypatch.setattr(registry, "_FACTORIES", dict(registry._FACTORIES))
    monkeypatch.setattr(registry, "_IDS", dict(registry._IDS))


def test_ids_are_listed_one_per_line(capsys):
    assert main(["envs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    ids = [line for line in lines if not line.startswith("#")]
    assert len(ids) == len(set(ids))
    assert {
        "diffsurrogate/cartpole-swingup",
        "gymnasium/HalfCheetah-v5",
        "mamujoco/HalfCheetah-6x1",
        "mpe2/simple_spread_v3",
        "paper/dispersion",
        "pettingzoo/sisl/multiwalker_v9",
        "vmas/navigation",
    } <= set(ids)
    assert "# mpe2/...: state=True shows what all agents see to critics" in lines
    assert {name.partition("/")[0] for name in ids} <= set(namespaces())
    assert "pettingzoo/classic/chess_v6" not in ids  # agents take turns
    assert "gymnasium/HalfCheetah-v2" not in ids  # long gone
    assert "gymnasium/CartPole-v0" not in ids  # there is a newer one


def test_one_namespace_is_listed_alone(capsys):
    assert main(["envs", "paper"]) == 0
    tasks = ("discovery", "dispersion", "sampling", "transport")
    assert capsys.readouterr().out.split() == [f"paper/{task}" for task in tasks]


@pytest.mark.parametrize("namespace", ["diffsurrogate", "paper", "vmas"])
def test_what_is_listed_can_be_made(namespace):
    ids = known_ids(namespace)
    assert ids
    assert make(ids[0], num_envs=2).num_envs == 2


def test_an_unknown_namespace_gets_advice(capsys):
    assert main(["envs", "vmass"]) == 2
    assert "did you mean 'vmas'" in capsys.readouterr().err


def test_what_is_registered_is_listed(capsys):
    register_env("mine", make, ids=lambda: ["two", "one"])
    assert known_ids("mine") == ["mine/one", "mine/two"]
    register_env("mine", make)
    assert known_ids("mine") is None
    assert main(["envs", "mine"]) == 0
    assert capsys.readouterr().out == "# mine/...: any id the library knows\n"


def test_a_namespace_asked_for_whose_extra_is_missing_is_an_error(capsys):
    def ids() -> list[str]:
        raise UsageError("pip install it")

    register_env("mine", make, ids=ids)
    assert main(["envs", "mine"]) == 2
    assert "pip install it" in capsys.readouterr().err


def test_missing_extras_are_named_and_the_rest_is_listed():
    found = subprocess.run(
        [sys.executable, "-P", "-c", WITHOUT_EXTRAS], capture_output=True, text=True, check=False
    )
    assert found.returncode == 2, found.stderr
    lines = found.stdout.splitlines()
    for namespace, extra in {
        "vmas": "vmas",
        "paper": "vmas",
        "pettingzoo": "pettingzoo",
        "mpe2": "mpe2",
        "mamujoco": "mujoco",
        "jaxmarl": "jaxmarl",
    }.items():
        (remark,) = [line for line in lines if line.startswith(f"# {namespace}/...: ")]
        assert f"diffsurrogate[{extra}]" in remark
        assert not [line for line in lines if line.startswith(f"{namespace}/")]
    assert "gymnasium/Pendulum-v1" in lines
    assert "diffsurrogate/cartpole-swingup" in lines
    for line in (*lines[-3:], found.stderr.splitlines()[-1]):
        assert 'pip install "diffsurrogate[mujoco]"' in line
        assert "gymnasium[mujoco]" not in line

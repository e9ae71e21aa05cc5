"""What users import, and from where."""

import subprocess
import sys

import pytest

import diffsurrogate
from diffsurrogate import algorithms, wrappers


@pytest.mark.parametrize("package", [algorithms, wrappers], ids=["algorithms", "wrappers"])
def test_packages_hand_out_what_their_modules_define(package):
    for name in package.__all__:
        found = getattr(package, name)
        assert found is getattr(diffsurrogate, name, found)
        assert found.__module__.startswith(f"{package.__name__}.")
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = package.nothing


def test_importing_the_package_needs_no_extra():
    heavy = "{'vmas', 'mujoco', 'jax', 'pettingzoo', 'stable_baselines3', 'matplotlib', 'scipy'}"
    code = f"import sys, diffsurrogate; print({heavy} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, check=True)
    assert run.stdout.decode().strip() == "set()"

"""Importing JaxMARL is silent, leaves the standard streams, and says what to install."""

import importlib.util
import sys
from pathlib import Path

import pytest

from diffsurrogate.errors import UsageError

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("jaxmarl") is None, reason="needs the extra jaxmarl"
)


def test_importing_jaxmarl_prints_nothing_and_leaves_the_streams(monkeypatch, capsys):
    from diffsurrogate.wrappers.jaxmarl import library

    streams = sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__
    with library._undisturbed():
        print("found no env")
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
        print("found another")
    assert (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__) == streams
    assert capsys.readouterr().out == ""
    monkeypatch.setitem(sys.modules, "jaxmarl", None)
    spec = importlib.util.spec_from_file_location("copy_of_library", Path(library.__file__))
    assert spec is not None and spec.loader is not None
    with pytest.raises(UsageError, match=r'pip install "diffsurrogate\[jaxmarl\]"'):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))

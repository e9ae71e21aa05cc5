"""PettingZoo envs that cannot work, and those that break the rules, are named with advice."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from mpe2 import simple_spread_v3, simple_tag_v3
from toys.turnover import BOTH, RuleBreaker, lives

from diffsurrogate.envs.registry import as_multi_agent, make
from diffsurrogate.errors import UsageError
from diffsurrogate.wrappers.pettingzoo import adapter


def test_without_the_packages_the_error_says_what_to_install(monkeypatch):
    monkeypatch.delitem(sys.modules, "mpe2.simple_tag_v3")
    monkeypatch.setitem(sys.modules, "mpe2", None)
    with pytest.raises(UsageError, match=r'pip install "diffsurrogate\[mpe2\]"'):
        make("mpe2/simple_tag_v3", num_envs=2)
    monkeypatch.setitem(sys.modules, "multi_agent_ale_py", None)
    with pytest.raises(UsageError, match=r"pong_v3 needs a package: .*multi_agent_ale_py"):
        make("pettingzoo/atari/pong_v3", num_envs=2)
    monkeypatch.setitem(sys.modules, "pettingzoo.utils.env", None)
    for name in ("adapter", "export"):
        path = Path(adapter.__file__).with_name(f"{name}.py")
        spec = importlib.util.spec_from_file_location("copy_of_adapter", path)
        with pytest.raises(UsageError, match=r'pip install "diffsurrogate\[pettingzoo\]"'):
            spec.loader.exec_module(importlib.util.module_from_spec(spec))


def test_envs_that_do_not_fit_are_refused():
    one = lives(*[(2, BOTH)] * 3)
    turns, nobody, wide = simple_tag_v3.env(), lives(*[(2, BOTH)] * 3), lives(*[(2, BOTH)] * 3)
    turns.unwrapped.metadata = turns.metadata | {"is_parallelizable": False}
    nobody.possible_agents = []
    wide.observed["b"] = spaces.Sequence(spaces.Box(0, 1))
    sizes, kinds = iter([3, 4]), iter([simple_tag_v3.parallel_env(), object()])
    unlike = [lives(*[(2, BOTH)] * 3, b=b) for b in (spaces.MultiBinary(2), spaces.Discrete(2))]
    for raw, options, advice in [
        (lambda: simple_spread_v3.parallel_env(N=next(sizes)), {"num_envs": 2}, "they differ"),
        (lambda: one, {"num_envs": 2}, "a new one each time"),
        (one, {"num_envs": 2}, "give a function"),
        (lambda: next(kinds), {"num_envs": 2}, "object, which is no PettingZoo env"),
        (turns, {}, "take turns.*is_parallelizable"),
        (nobody, {}, "lives has no possible_agents"),
        (wide, {}, r"agent 'b' are Sequence.*fixed size"),
        (unlike[0], {}, r"agent 'b' are MultiBinary\(2\), which is not supported"),
        (unlike[1], {}, "'b' has Discrete actions and agent 'a' a Box.*BaseParallelWrapper"),
        (lives(*[(2, BOTH)] * 3, c=spaces.Box(-np.inf, 1, (2,))), {}, "box must be finite"),
    ]:
        with pytest.raises(UsageError, match=advice):
            as_multi_agent(raw, **options)


# --- envs that lie, or break --------------------------------------------------------------------


def say(field: int, **values: Any) -> Callable[[RuleBreaker, list[Any]], None]:
    """Put values into one of the five dicts."""
    return lambda raw, result: result[field].update(values)


def forget(field: int) -> Callable[[RuleBreaker, list[Any]], None]:
    """Leave an agent out of one of the five dicts."""

    def lie(raw: RuleBreaker, result: list[Any]) -> None:
        del result[field]["b"]

    return lie


def fail(raw: RuleBreaker, result: list[Any]) -> None:
    raise ZeroDivisionError("of no use")


def leave(raw: RuleBreaker, result: list[Any]) -> None:
    raw.agents.remove("b")


def invite(raw: RuleBreaker, result: list[Any]) -> None:
    raw.agents.append("d")


@pytest.mark.parametrize(
    ("lie", "named"),
    [
        (say(0, b=np.zeros(4)), r"observation of 'b' is of shape \(4,\); its space says \(3,\)"),
        (say(0, b="up"), r"observation of 'b' is a str that is not of its space Box"),
        (
            say(0, b=[0, 1e7, 0]),
            r"observation of 'b' is outside of its space: 1e\+07 at \[1\], .* \[-1e\+06, -1e-06\]",
        ),
        (say(1, b=None), "reward of 'b' is None; a number is needed"),
        (forget(0), r"observations lacks \['b'\]"),
        (forget(1), r"rewards lacks \['b'\]"),
        (forget(2), r"terminations lacks \['b'\]"),
        (forget(3), r"truncations lacks \['b'\]"),
        (say(2, b=True), "'b' ended by its terminations or truncations, but is still in agents"),
        (leave, "'b' has left agents, but neither terminations nor truncations is True"),
        (invite, r"agents has \['d'\], which possible_agents has not"),
        (fail, r"step\(\) raised ZeroDivisionError: of no use"),
        (lambda raw, result: result[:4], r"step\(\) must return five dicts: observations, rewards"),
        (lambda raw, result: ([], *result[1:]), "observations is a list; a dict by agent is need"),
    ],
)
def test_a_lie_is_named_with_its_env_its_step_and_its_field(monkeypatch, lie, named):
    monkeypatch.setattr(RuleBreaker, "made", 0)
    env = as_multi_agent(lambda: RuleBreaker(lie), num_envs=7)
    env.reset()
    env.step(torch.zeros(7, 3, 4))
    env.reset()
    with pytest.raises(UsageError, match=f"lives, env 4, step 3 of its episode: .*{named}"):
        env.rollout(lambda obs: torch.zeros(7, 3, 4), 3)


@pytest.mark.parametrize(
    ("lie", "named"),
    [
        (say(0, b=[0, np.nan, 0]), r"observation of env 4 .* nan for agent 'b' at \[1\]"),
        (say(1, b=np.nan), "reward of env 4 .* nan for agent 'b'"),
    ],
)
def test_what_is_not_finite_is_refused_or_restarted(monkeypatch, lie, named):
    """Only env 4 begins anew; the step in which it broke is not finite in the window."""
    monkeypatch.setattr(RuleBreaker, "made", 0)
    env = as_multi_agent(lambda: RuleBreaker(lie), num_envs=7)
    env.reset()
    still = torch.zeros(7, 3, 4)
    for _ in range(2):
        with env.restarting_broken():
            env.reset()
            window = env.rollout(lambda obs: still, 3)
    assert window.finite_envs.tolist() == [True] * 4 + [False] + [True] * 2
    assert window.truncated[-1].tolist() == [False] * 4 + [True] + [False] * 2
    assert env.current_obs.isfinite().all()
    env.reset()
    with pytest.raises(UsageError, match=f"lives: the {named}"):
        env.rollout(lambda obs: still, 3)


def test_bounds_need_not_be_kept_where_one_says_so(monkeypatch):
    monkeypatch.setattr(RuleBreaker, "made", 4)
    env = as_multi_agent(RuleBreaker(say(0, b=[0, 1e7, 0])), check_bounds=False)
    env.reset()
    assert env.rollout(lambda obs: torch.zeros(1, 3, 4), 3).next_obs.max() == 1e7
    assert make("mpe2/simple_spread_v3", num_envs=2, check_bounds=False).reset()[0].isfinite().all()


def test_a_reset_that_does_not_keep_to_the_api_is_named():
    raw = lives(*[(2, BOTH)] * 3)
    env = as_multi_agent(raw)
    env.reset()
    right = raw.reset
    for wrong, named in [
        (lambda: right()[0], "must return observations and infos"),
        (lambda: ({"a": np.zeros(2)}, {}), r"observations lacks \['b', 'c'\]"),
        (lambda: 1 / 0, r"reset\(\) raised ZeroDivisionError"),
        (lambda: (raw.agents.clear(), {}), r"agents is empty after reset\(\)"),
    ]:
        raw.reset = wrong
        with pytest.raises(UsageError, match=f"lives, env 0, reset: .*{named}"):
            env.reset()

"""The doctor says of envs with known virtues and faults what is so, and shows it."""

import pytest
import torch
from doors import Doors
from home import AGENTS, OBS, Home
from torch import Tensor

from diffsurrogate.__main__ import main
from diffsurrogate.cli.diagnosis import Diagnosis, diagnose
from diffsurrogate.cli.doctor import Verdict, describe, judge
from diffsurrogate.env import MultiAgentVectorEnv
from diffsurrogate.registry import make, register_env

TRANSITIONS = 2 * 2 * 32 * 7  # two windows of each kind of noise


def examined(env: MultiAgentVectorEnv) -> tuple[Diagnosis, Verdict]:
    found = diagnose(env, "test/env", transitions=TRANSITIONS, seed=3)
    return found, judge(found)


@pytest.fixture(scope="module")
def healthy() -> tuple[Diagnosis, Verdict]:
    return examined(Home())


def test_a_smooth_env_with_gradients_is_found_to_be_one(healthy):
    found, verdict = healthy
    assert (found.shape.agents, found.shape.obs_dim, found.shape.act_dim) == (AGENTS, OBS, 2)
    assert (found.conduct.repeats, found.conduct.continues) == (True, True)
    assert (found.conduct.not_finite, found.conduct.not_reset) == (0, 0)
    assert found.experience.transitions == TRANSITIONS
    assert found.experience.rewarded["white"] > 0.9
    assert found.experience.still_entries == AGENTS  # the fifth entry is 0 for everyone
    assert (found.experience.terminated, found.experience.truncated) == (0, 2 * 2 * 7 * 32 // 8)
    assert set(found.own.kinds) == {"dynamics", "reward"}
    assert found.own.passed
    assert found.fit.reward_error < 0.3
    assert found.fit.entry_errors.shape == (AGENTS, OBS)
    assert found.fit.entry_errors[:, 4].isnan().all()
    assert found.fit.cosine > 0.8
    assert found.fit.growth[0] == 1
    assert verdict.chance == "good"
    assert verdict.faults == ()


def test_the_text_names_what_was_found(healthy):
    text = describe(*healthy)
    assert "PASSED" in text
    assert f"{OBS} numbers per agent" in text
    assert "SHAC++ here: good" in text
    assert "cosine" in text


def test_the_text_names_open_choices_and_the_global_state(healthy):
    assert "global state      none" in describe(*healthy)
    text = describe(*examined(Doors()))
    assert "4 choices, not all of them open all the time, per agent" in text
    assert "3 of these numbers, which policies do not see" in text
    text = describe(*examined(make("mpe2/simple_spread_v3", num_envs=7, n_agents=2)))
    assert "left out; --env-options state True shows it" in text


class Rare(Home):
    """Pays far outside only: correlated noise gets there once in some hundred steps."""

    def reward(self, state, action, next_state) -> Tensor:
        return (next_state["x"].prod(-1) > 16).float()


class Unseeded(Home):
    def spawn(self, count: int, generator: torch.Generator):
        return {"x": torch.rand(count, AGENTS, 2)}


class Hidden(Home):
    """What is observed says nothing of where a point is."""

    def observe(self, state) -> Tensor:
        return (state["x"].repeat(1, 1, 3)[..., :OBS] * 1e4).frac()


@pytest.mark.parametrize(
    ("kind", "chance", "says"),
    [
        (Rare, "fair", "rewards are rare"),
        (Hidden, "poor", "hard to tell"),
    ],
)
def test_what_is_against_learning_is_named(kind, chance, says):
    _, verdict = examined(kind())
    assert verdict.chance == chance
    assert any(says in finding for finding in verdict.findings)
    assert verdict.advice


def test_no_reward_at_all_is_poor():
    class Nothing(Home):
        def reward(self, state, action, next_state) -> Tensor:
            return torch.zeros(action.shape[:2])

    found, verdict = examined(Nothing())
    assert found.experience.rewarded == {"white": 0.0, "ou": 0.0}
    assert verdict.chance == "poor"


def test_an_env_that_does_not_repeat_is_at_fault(capsys, tmp_path):
    register_env("unseeded", lambda name, num_envs, **_: Unseeded(num_envs=num_envs))
    command = ["doctor", "unseeded/x", "--num-envs", "5", "--transitions", "100"]
    assert main([*command, "--out", str(tmp_path)]) == 1
    text = capsys.readouterr().out
    assert "FAULT: the same seed and actions gave other numbers" in text


def test_an_env_that_does_not_reset_is_at_fault():
    class Stuck(Home):
        def _reset_where(self, mask: Tensor) -> Tensor:
            return self._observe_now()

        def _observe_now(self) -> Tensor:
            return self.observe(self._state)

    found, verdict = examined(Stuck())
    assert found.conduct.not_reset > 0
    assert any("must start anew" in fault for fault in verdict.faults)


@pytest.mark.parametrize("env", ["gymnasium/Pendulum-v1", "gymnasium/CartPole-v1"])
def test_the_page_shows_it(env, tmp_path, capsys):
    command = ["doctor", env, "--num-envs", "6", "--transitions", "400", "--out", str(tmp_path)]
    assert main(command) == 0
    text = capsys.readouterr().out
    page = (tmp_path / "doctor.html").read_text()
    continuous = "Pendulum" in env
    assert page.count("data:image/png") == (5 if continuous else 4)
    assert ("actions are choices" in text) == (not continuous)
    assert "SHAC++ here: " in text
    assert (tmp_path / "doctor.txt").read_text() in text


def test_bad_options_are_refused(capsys):
    assert main(["doctor", "gymnasium/Pendulum-v1", "--transitions", "0"]) == 2
    assert "transitions is 0" in capsys.readouterr().err
    assert main(["doctor", "vmas/nonsense"]) == 2

"""The doctor says of envs with known virtues and faults what is so, and shows it."""

import re
from dataclasses import replace

import pytest
import torch
from matplotlib import pyplot as plt
from torch import Tensor
from toys.masked import MaskedReach
from toys.reach import AGENTS, ENVS, OBS, Reach

from diffsurrogate.__main__ import main
from diffsurrogate.cli.doctor import page as doctor_page
from diffsurrogate.cli.doctor.command import Verdict, describe, verdict_of
from diffsurrogate.cli.doctor.measure import Diagnosis, diagnose
from diffsurrogate.cli.doctor.race import Result
from diffsurrogate.envs.env import MultiAgentVectorEnv
from diffsurrogate.envs.registry import make, register_env

TRANSITIONS = 2 * 2 * 32 * 7  # two windows of each kind of noise


def examined(env: MultiAgentVectorEnv) -> tuple[Diagnosis, Verdict]:
    found = diagnose(env, "test/env", transitions=TRANSITIONS, seed=3)
    return found, verdict_of(found)


@pytest.fixture(scope="module")
def healthy() -> tuple[Diagnosis, Verdict]:
    return examined(Reach())


def test_a_smooth_env_with_gradients_is_found_to_be_one(healthy):
    found, verdict = healthy
    assert (found.env.num_agents, found.env.obs_dim, found.env.act_dim) == (AGENTS, OBS, 2)
    assert (found.conduct.repeats, found.conduct.continues) == (True, True)
    assert (found.conduct.not_finite, found.conduct.not_reset) == (0, 0)
    assert found.random_play.transitions == TRANSITIONS
    assert found.random_play.rewarded["white"] > 0.9
    assert found.random_play.still_entries == AGENTS  # the fifth entry is 0 for everyone
    assert (found.random_play.terminated, found.random_play.truncated) == (0, 2 * 2 * 7 * 32 // 8)
    assert set(found.own.kinds) == {"dynamics", "reward"}
    assert found.fit.reward_error < 0.3
    assert found.fit.entry_errors.shape == (AGENTS, OBS)
    assert found.fit.entry_errors[:, 4].isnan().all()
    assert found.fit.cosine > 0.8
    assert found.fit.growth[0] == 1
    assert verdict.chance == "good"
    assert verdict.faults == ()
    text = f"{describe(found)}{verdict.text}"
    assert "PASSED" in text
    assert f"{OBS} numbers per agent" in text
    assert "SHAC++ here: good" in text
    assert "cosine" in text


def test_the_text_names_available_actions_and_the_global_state(healthy):
    assert "global state      none" in describe(healthy[0])
    text = describe(examined(MaskedReach())[0])
    assert "4 choices, not all of them open all the time, per agent" in text
    assert "3 of these numbers, which policies do not see" in text
    text = describe(examined(make("mpe2/simple_spread_v3", num_envs=7, n_agents=2))[0])
    assert "left out; --env-options state True shows it" in text


def test_the_text_has_unlike_bounds_of_actions(healthy):
    env = Reach()
    env.action_low = torch.tensor([[-1.0, 0.0]] * AGENTS)
    env.action_high = torch.tensor([[1.0, 2.5]] * AGENTS)
    text = describe(replace(healthy[0], env=env))
    assert "2 numbers in [-1, 1] and [0, 2.5] per agent" in text


class Rare(Reach):
    """Pays far outside only: correlated noise gets there once in some hundred steps."""

    def reward(self, state, action, next_state) -> Tensor:
        return (next_state["x"].prod(-1) > 16).float()


class Nothing(Reach):
    def reward(self, state, action, next_state) -> Tensor:
        return torch.zeros(action.shape[:2])


class Unseeded(Reach):
    def spawn(self, count: int, generator: torch.Generator):
        return {"x": torch.rand(count, AGENTS, 2)}


class Hidden(Reach):
    """What is observed says nothing of where a point is."""

    def observe(self, state) -> Tensor:
        return (state["x"].repeat(1, 1, 3)[..., :OBS] * 1e4).frac()


@pytest.mark.parametrize(
    ("kind", "chance", "says"),
    [
        (Rare, "fair", "rewards are rare"),
        (Hidden, "poor", "hard to tell"),
        (Nothing, "poor", "reward"),
    ],
)
def test_what_hinders_learning_is_named(kind, chance, says):
    found, verdict = examined(kind())
    assert (sum(found.random_play.rewarded.values()) == 0) == (kind is Nothing)
    assert verdict.chance == chance
    assert any(says in finding for finding in verdict.findings)
    assert verdict.advice


def test_an_env_that_does_not_repeat_is_at_fault(capsys, tmp_path):
    register_env("unseeded", lambda name, num_envs, **_: Unseeded(num_envs=num_envs))
    command = ["doctor", "unseeded/x", "--num-envs", "5", "--transitions", "100", "--race", "0"]
    assert main([*command, "--out", str(tmp_path)]) == 1
    text = capsys.readouterr().out
    assert "FAULT: the same seed and actions gave other numbers" in text


def test_an_env_that_does_not_reset_is_at_fault():
    class Stuck(Reach):
        def _reset_where(self, mask: Tensor) -> Tensor:
            return self.observe(self._state)

    found, verdict = examined(Stuck())
    assert found.conduct.not_reset > 0
    assert any("must be reset" in fault for fault in verdict.faults)


class NotANumber(Reach):
    """Steps by itself, past the checks of the base class; far outside a reward is NaN."""

    def step(self, actions: Tensor):
        obs, reward, terminated, truncated, info = super().step(actions)
        far = info["final_obs"][..., 0].abs() > 1
        return obs, reward.masked_fill(far, torch.nan), terminated, truncated, info


def test_an_env_at_fault_is_never_judged_good():
    found, verdict = examined(NotANumber())
    assert found.conduct.not_finite > 0
    assert found.conduct.repeats  # NaN where it was NaN before
    assert torch.tensor(found.random_play.reward_mean).isfinite()
    assert any("NaN or infinite" in fault for fault in verdict.faults)
    assert verdict.chance == "poor"
    assert "nothing speaks against it" not in verdict.findings
    assert verdict.advice == ("mend the FAULT first",)


def test_an_env_that_is_refused_while_it_runs_is_at_fault(capsys, tmp_path):
    class Breaks(Reach):
        def reward(self, state, action, next_state) -> Tensor:
            far = next_state["x"][..., 0].abs() > 1
            return super().reward(state, action, next_state).masked_fill(far, torch.nan)

    register_env("breaks", lambda name, num_envs, **_: Breaks(num_envs=num_envs))
    command = ["doctor", "breaks/x", "--num-envs", "5", "--race", "0", "--out", str(tmp_path)]
    assert main(command) == 1
    text = capsys.readouterr().out
    assert re.search(r"FAULT: Breaks: the reward of env \d at step \d .* is not finite", text)
    assert "SHAC++ here: poor" in text
    assert (tmp_path / "doctor.txt").read_text() in text


def test_a_reset_that_cannot_be_seen_is_no_fault():
    """Both agents always see 1; every episode is one step long, which is its time limit too."""
    found, verdict = examined(make("games/climbing", num_envs=7))
    assert found.conduct.ends > 0
    assert found.conduct.not_reset == 0
    assert verdict.faults == ()
    assert (found.random_play.terminated, found.random_play.truncated) == (TRANSITIONS, 0)
    text = f"{describe(found)}{verdict.text}"
    assert "by state, 0 by a time limit; autoreset: cannot be told" in text
    assert "nothing to tell: no entry changes" in text


def test_a_start_that_happens_to_be_the_last_observation_is_no_fault():
    """Of three places, one in three starts is where the last episode ended."""

    class Few(Reach):
        def observe(self, state) -> Tensor:
            place = (1.5 * state["x"][:, :1, :1]).round().clamp(-1, 1)
            return place.expand(-1, AGENTS, OBS).clone()

    found, verdict = examined(Few())
    assert found.conduct.ends > 50
    assert found.conduct.not_reset == 0
    assert verdict.faults == ()


class Long(Reach):
    """A time limit that 128 steps do not reach."""

    def __init__(self, max_steps: int | None = 200) -> None:
        super().__init__()
        self.max_steps = max_steps


def test_ends_are_seen_though_the_time_limit_is_not_reached():
    found, verdict = examined(Long())
    assert 0 < found.random_play.truncated <= ENVS
    text = f"{describe(found)}{verdict.text}"
    assert f"0 by state, {found.random_play.truncated} by a time limit; autoreset: the next" in text


def test_where_no_end_was_seen_the_text_says_how_to_see_one():
    found, verdict = examined(Long(10**6))
    for limit, advice in ((10**6, "7000000 shows some"), (None, "8960 may show some")):
        found.env.max_steps = limit
        text = f"{describe(found)}{verdict.text}"
        assert "none seen in 128 steps of each copy, so that autoreset was not tried" in text
        assert advice in text


@pytest.mark.parametrize(
    ("returns", "chance", "said"),
    [
        ({"ppo": 9.0, "shac++": 5.0}, "poor", "use ppo here: diffsurrogate train ppo "),
        ({"shac++": 9.0, "ppo": 5.0}, "good", "won by shac++: shac++ 9 ± 0.5 after 64 steps"),
        ({"shac++": 9.0, "ppo": 8.0}, "fair", "a race ended even"),
    ],
)
def test_a_race_decides_what_is_recommended(healthy, returns, chance, said):
    results = [
        Result(method=method, cpu_seconds=1.0, env_steps=64, mean_return=mean, error=0.5)
        for method, mean in sorted(returns.items(), key=lambda item: item[1])
    ]
    verdict = verdict_of(replace(healthy[0], name="own/env"), results)
    assert verdict.chance == chance
    assert said in verdict.text


def test_the_command_to_go_on_by_works_without_a_time_limit(healthy, monkeypatch):
    found = replace(healthy[0], name="own/env")
    monkeypatch.setattr(found.env, "max_steps", None)
    results = [
        Result(method=method, cpu_seconds=1.0, env_steps=64, mean_return=mean, error=0.5)
        for method, mean in (("ppo", 1.0), ("shac++", 9.0))
    ]
    assert "train shac++ own/env --eval-steps 1000" in verdict_of(found, results).text


def test_slopes_are_followed_within_episodes_only(healthy):
    """Of eight steps: what follows a reset depends on nothing before it."""
    growth = healthy[0].fit.growth
    assert growth.shape == (8,)
    assert (growth > 0.1).all()
    assert re.search(r"slopes .* in 8 steps, as long as most episodes last", describe(healthy[0]))


def test_a_reward_model_that_knows_only_what_it_learned_from_is_named(healthy):
    found, _ = healthy

    def judged(**errors: float) -> Verdict:
        return verdict_of(replace(found, fit=replace(found.fit, **errors)))

    verdict = judged(reward_error=0.28, seen_error=0.09)
    assert verdict.chance == "fair"
    assert verdict.findings[0] == (
        "reward model at 72% of the variance on unseen episodes, 91% on those it learned from: "
        "more data or another model first"
    )
    assert "--transitions" in verdict.advice[0]
    verdict = judged(reward_error=1.1, seen_error=1.0)
    assert verdict.chance == "poor"
    assert "at 0% of the variance on unseen episodes: more data" in verdict.findings[0]
    assert "RewardConfig" in verdict.advice[0]
    assert judged(reward_error=float("nan")).chance != "good"


def test_held_out_episodes_are_others(healthy):
    """Seven copies, two windows of 32 steps, episodes of eight."""
    assert healthy[0].fit.episodes == 7 * 2 * 32 // 8

    class Memory(Reach):
        """Pays by a number that is drawn with each episode, and by nothing else."""

        def spawn(self, count: int, generator: torch.Generator):
            lot = torch.randint(1000, (count, 1), generator=generator)
            return super().spawn(count, generator) | {"lot": lot}

        def observe(self, state) -> Tensor:
            seen = super().observe(state)
            return torch.cat([seen[..., :4], state["lot"].unsqueeze(1).expand(-1, AGENTS, 1)], -1)

        def advance(self, state, action):
            return super().advance(state, action) | {"lot": state["lot"]}

        def reward(self, state, action, next_state) -> Tensor:
            return (state["lot"] * 7919 % 101 / 101.0).expand(-1, AGENTS)

    found, verdict = examined(Memory())
    assert found.fit.reward_error > 0.7
    assert any("of the variance on unseen episodes" in finding for finding in verdict.findings)


def test_bars_of_the_rewards_stand_on_zero(healthy):
    _, axis = plt.subplots()
    doctor_page._rewards(axis, healthy[0])
    assert axis.get_ylim()[0] == 0
    assert axis.get_yscale() == "symlog"
    plt.close()


def test_lengths_are_of_whole_episodes(healthy):
    """A first episode that the spread time limit cut is left out, one that ended is not."""
    truncated, terminated = torch.zeros(2, 32, ENVS, dtype=torch.bool)
    truncated[[4, 12, 20], 0] = True
    terminated[[2, 7], 1] = True
    window = replace(healthy[0].windows[0], terminated=terminated, truncated=truncated)
    _, axis = plt.subplots()
    doctor_page._lengths(axis, replace(healthy[0], windows=(window,)))
    assert sum(bar.get_height() for bar in axis.patches) == 4
    plt.close()


@pytest.mark.parametrize("kind", [Reach, MaskedReach])
def test_the_page_shows_it(kind, tmp_path, capsys):
    register_env("toy", lambda name, num_envs, **_: kind(num_envs=num_envs))
    sizes = ["--num-envs", "6", "--transitions", "400", "--race", "0.1"]
    command = ["doctor", "toy/x", *sizes, "--out", str(tmp_path)]
    assert main(command) == 0
    text = capsys.readouterr().out
    page = (tmp_path / "doctor.html").read_text()
    continuous = kind is Reach
    assert page.index("SHAC++ here: ") < page.index("data:image/png")
    assert page.count("data:image/png") == (5 if continuous else 4)
    assert ("actions are choices" in text) == (not continuous)
    assert "SHAC++ here: " in text
    assert "a race" in text
    assert (tmp_path / "doctor.txt").read_text() in text


def test_bad_options_are_refused(capsys):
    assert main(["doctor", "gymnasium/Pendulum-v1", "--transitions", "0"]) == 2
    assert "transitions is 0" in capsys.readouterr().err
    assert main(["doctor", "gymnasium/Pendulum-v1", "--out", __file__]) == 2
    assert "test_doctor.py cannot be written" in capsys.readouterr().err
    assert main(["doctor", "vmas/nonsense"]) == 2

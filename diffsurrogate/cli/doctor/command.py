"""`diffsurrogate doctor`: try an env out, and say what SHAC++ may hope for on it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from diffsurrogate.cli.doctor.findings import Diagnosis, Fit
from diffsurrogate.cli.doctor.measure import HORIZON, diagnose
from diffsurrogate.cli.doctor.race import LONGEST, Result, is_ahead, race
from diffsurrogate.cli.options import MadeOptions
from diffsurrogate.cli.parsing import started_as
from diffsurrogate.config import require_range
from diffsurrogate.envs.env import MultiAgentVectorEnv
from diffsurrogate.errors import UsageError
from diffsurrogate.training.checkpoint import advice
from diffsurrogate.training.run_folder import write_text

Chance = Literal["good", "fair", "poor"]
RARE = 0.01
"""Share of rewarded transitions below which a reward counts as rare."""
DENSE = 0.9
"""Share of transitions with another than the most frequent reward, above which none is usual."""
POOR_FIT = 0.5
"""Held-out error from which on a model explains too little."""
GOOD_FIT = 0.2
"""Held-out error up to which a reward model is one to rely on."""
STEEP = 30.0
"""Growth of a slope along a window from which on whole windows are too long."""


@dataclass(frozen=True, kw_only=True)
class DoctorOptions(MadeOptions):
    """Try an env out: spaces, determinism, rewards, gradients, how well models fit it.

    Takes about two minutes. Status 1 if the env breaks the rules: values that are not finite, an
    episode that is not reset, other numbers under the same seed.
    """

    num_envs: int = 64
    """Copies of the env."""
    transitions: int = 10_000
    """Random transitions the models learn from, at least; two windows of 32 steps are the least."""
    race: float = 20.0
    """CPU-seconds for which ppo and shac++ each train on the env, to recommend one; 0 for no
    race."""
    out: Path | None = None
    """Folder of doctor.html and doctor.txt; None for runs/doctor-<env>."""

    def __post_init__(self) -> None:
        """Refuse what cannot work before anything is made."""
        super().__post_init__()
        require_range(self, "transitions", "num_envs", low=1.0)
        require_range(self, "seed", "race", low=0.0)

    @property
    def folder(self) -> Path:
        """Where the page goes."""
        if self.out is not None:
            return self.out
        agents = "" if self.agents is None else f"-{self.agents}"
        return Path("runs") / f"doctor-{self.env.replace('/', '-')}{agents}"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What it comes to."""

    chance: Chance
    """Of SHAC++."""
    faults: tuple[str, ...]
    """What the env does wrong."""
    findings: tuple[str, ...]
    """What speaks for and against."""
    advice: tuple[str, ...]
    """What to try."""

    @property
    def text(self) -> str:
        """All of it, in lines."""
        lines = [*(f"FAULT: {fault}" for fault in self.faults), f"SHAC++ here: {self.chance}"]
        lines += [f"  - {finding}" for finding in self.findings]
        if self.advice:
            lines += ["try:", *(f"  - {line}" for line in self.advice)]
        return "\n".join(lines) + "\n"


def doctor(options: DoctorOptions) -> int:
    """Examine the env, print the findings and write them as a page; 1 if the env is at fault."""
    from diffsurrogate.cli.doctor.page import write_page  # the import takes seconds

    torch.set_num_threads(1)
    env = options.make()
    with advice(options.folder):  # not at the end only, minutes later
        options.folder.mkdir(parents=True, exist_ok=True)
    try:
        found = diagnose(env, options.env, transitions=options.transitions, seed=options.seed)
        runs = options.race > 0 and not found.conduct.not_finite
        results = race(options, options.race) if runs else []
    except UsageError as error:  # such as a step with a number that is not finite
        text = f"{options.env}\n\nFAULT: {error}\nSHAC++ here: poor\n  - it cannot be run\n"
        print(text)
        write_text(options.folder / "doctor.txt", text)
        return 1
    verdict = verdict_of(found, results)
    facts, judged = describe(found), verdict.text
    text = f"{facts}\n{judged}"
    print(text)
    write_text(options.folder / "doctor.txt", text)
    page = options.folder / "doctor.html"
    write_page(page, found, judged, facts)
    print(f"\n{page} shows it with pictures")
    return 1 if verdict.faults else 0


def verdict_of(found: Diagnosis, results: Sequence[Result] = ()) -> Verdict:
    """Weigh what was found and the results of a race; the thresholds are rules of thumb."""
    findings: list[str] = []
    advice: list[str] = []
    chance: Chance = "good"

    def say(new: Chance, finding: str, *remedies: str) -> None:
        nonlocal chance
        order: list[Chance] = ["good", "fair", "poor"]
        chance = max(chance, new, key=order.index)
        findings.append(finding)
        advice.extend(remedies)

    faults = _faults(found)
    if found.conduct.not_finite or found.conduct.not_reset:
        say("poor", "what it does wrong spoils whatever is learned on it", "mend the FAULT first")
    elif faults:
        say("fair", "runs on it cannot be repeated or resumed", "mend the FAULT first")
    _judge_rewards(found, say)
    if not found.conduct.not_finite:
        _judge_fit(found, say)
    if not found.random_play.terminated + found.random_play.truncated:
        say("fair", "no episode ended, so that ends and resets were not tried")
    if results:
        _judge_race(found, results, say)
    if found.random_play.still_entries:
        say("good", f"observation entries that never change: {found.random_play.still_entries}")
    low, high = found.random_play.scales
    if low > 0 and high / low > 1000:
        say("good", f"observation entries differ {high / low:,.0f} times in scale; normalised")
    return Verdict(
        chance=chance,
        faults=tuple(faults),
        findings=tuple(findings or ["nothing speaks against it"]),
        advice=tuple(dict.fromkeys(advice)),
    )


def _judge_race(found: Diagnosis, results: Sequence[Result], say: Callable[..., None]) -> None:
    *_, second, first = results
    figures = "; ".join(map(str, reversed(results)))
    command = f"{started_as()} train {first.method} {found.name}"
    if found.env.max_steps is None:
        command += f" --eval-steps {LONGEST}"
    if not is_ahead(first, second):
        say("fair", f"a race ended even: {figures}", "train both for longer; ppo is the simpler")
    elif first.method == "ppo":
        say("poor", f"a race was won by ppo: {figures}", f"use ppo here: {command}")
    else:
        say("good", f"a race was won by {first.method}: {figures}", f"go on: {command}")


def _judge_rewards(found: Diagnosis, say: Callable[..., None]) -> None:
    met = found.random_play
    if found.env.discrete_actions:
        say("good", "actions are choices: SHAC++ learns slopes between them, SHAC+ cannot")
    best = max(met.rewarded, key=lambda kind: met.rewarded[kind])
    if met.rewarded[best] == 0:
        say(
            "poor",
            f"not one of {met.transitions:,} random transitions had another reward than "
            f"{met.usual_reward:g}",
            "look for a reward that a random policy meets, or record a better one and fit to that "
            "first (examples/cold_start.py)",
        )
    elif met.rewarded[best] < RARE:
        say(
            "fair",
            f"rewards are rare: {met.rewarded[best]:.2%} of transitions under {best} noise",
            "keep PPO's part (the default, HybridUpdateConfig), with an optimistic critic: "
            "ValueLearningConfig(expectile=.8, expectile_one_signed=.65), as on paper/…",
        )
        white = met.rewarded.get("white", 0.0)
        if met.rewarded[best] > 2 * white:
            times = "; white noise never does"
            if white:
                times = f" {met.rewarded[best] / white:.0f} times as often as white noise"
            say("good", f"correlated (OU) noise meets them{times}")


def _faults(found: Diagnosis) -> list[str]:
    conduct = found.conduct
    faults: list[str] = []
    if not conduct.repeats:
        faults.append(
            "the same seed and actions gave other numbers: a run cannot be repeated; seed every "
            "source of randomness in reset(seed=…)"
        )
    if conduct.continues is False:
        faults.append(
            "from a saved state it went on to other numbers: resumed runs would differ; let _save "
            "return all that decides the future, random state included"
        )
    if conduct.not_finite:
        faults.append(f"{conduct.not_finite} observed values or rewards were NaN or infinite")
    if conduct.not_reset:
        faults.append(
            f"after {conduct.not_reset} ends of episodes the next observation was still the last "
            "one; an ended env must be reset in the same step"
        )
    return faults


def _judge_fit(found: Diagnosis, say: Callable[..., None]) -> None:
    """Weigh errors; a NaN counts as the worst of them."""
    fit = found.fit
    frequent = max(found.random_play.rewarded.values()) >= RARE  # else the errors say little
    if frequent and not fit.reward_error <= GOOD_FIT:
        _judge_reward_model(fit, say)
    errors = fit.entry_errors[fit.entry_errors.isfinite()]
    if len(errors) and not float(errors.median()) <= POOR_FIT:
        say(
            "poor",
            f"the next observation is hard to tell: median held-out error {errors.median():.2f} "
            "of 1 over entries",
            "observe what decides the future (velocities, what others do), or lean on PPO's part: "
            "a smaller HybridUpdateConfig(weight=…)",
        )
    if fit.growth is not None and not float(fit.growth.max()) <= STEEP:
        say(
            "fair",
            f"slopes grow {float(fit.growth.max()):.0f} times along a window of "
            f"{len(fit.growth)} steps",
            "shorten what is differentiated: PathwiseConfig(segment_length=8)",
        )
    if frequent and fit.cosine is not None and not fit.cosine >= 0.5:
        say(
            "fair",
            f"the learned gradient has a cosine of {fit.cosine:.2f} with the true one",
            "train the models longer before you trust them: "
            "SurrogateConfig(fit=FitConfig(minibatches=32))",
        )


def _judge_reward_model(fit: Fit, say: Callable[..., None]) -> None:
    unseen, seen = (max(0.0, 1 - error) for error in (fit.reward_error, fit.seen_error))
    finding = f"reward model at {unseen:.0%} of the variance on unseen episodes"
    if fit.seen_error < fit.reward_error / 2:
        finding += f", {seen:.0%} on those it learned from"
        remedy = (
            "let the reward model learn from more episodes: here by --transitions, in training by "
            "more steps, or from a record (examples/cold_start.py)"
        )
    else:
        remedy = (
            "let the reward model see all of the next observation: "
            'SurrogateConfig(reward=RewardConfig(inputs="s,a,s\'")), unless a flag in it tells '
            "the reward; or give it more updates"
        )
    chance = "fair" if fit.reward_error < 1 else "poor"
    say(chance, f"{finding}: more data or another model first", remedy)


# --- text ------------------------------------------------------------------------------------


def _global_state(env: MultiAgentVectorEnv) -> str:
    if env.global_state_slice is not None:
        size = len(range(env.obs_dim)[env.global_state_slice])
        return f"{size} of these numbers, which policies do not see"
    if env.offers_state:
        return "left out; --env-options state True shows it to critics and models"
    return "none"


def _ends(found: Diagnosis) -> str:
    """Return how episodes ended, and what came after."""
    env, conduct, met = found.env, found.conduct, found.random_play
    if met.terminated + met.truncated == 0:
        steps = met.transitions // env.num_envs
        enough = env.num_envs * (env.max_steps or steps * 10)
        return (
            f"none seen in {steps:,} steps of each copy, so that autoreset was not tried; "
            f"--transitions {enough} "
            + ("shows some" if env.max_steps else "may show some: there is no time limit")
        )
    ends = f"{met.terminated} by state, {met.truncated} by a time limit; autoreset: "
    if conduct.ends == 0:
        return ends + "not seen, all ended with a window; give other --transitions"
    if conduct.not_reset:
        return ends + f"NOT after {conduct.not_reset} of {conduct.ends}"
    if met.still_entries == int(env.observation_mask.sum()):
        return ends + "cannot be told, since observations never change"
    return ends + "the next episode starts in the same step"


def _shortened(names: Sequence[str], most: int = 6) -> str:
    """Return some names and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more if names else "no entry"


def _fit_rows(fit: Fit) -> list[tuple[str, str]]:
    errors = fit.entry_errors[fit.entry_errors.isfinite()]
    good = f"held-out error of the change: {int((errors < 0.1).sum())} of {len(errors)} entries"
    nothing = "nothing to tell: no entry changes other than in whole numbers"
    rows = [
        (
            "reward model",
            f"held-out error {fit.reward_error:.3g} on {fit.episodes} unseen episodes (0 perfect, "
            f"1 the mean); {fit.seen_error:.3g} on those it learned from",
        ),
        ("dynamics model", f"{good} below .1" if len(errors) else nothing),
    ]
    if fit.growth is not None and len(fit.growth) > 1:
        last, steps = float(fit.growth[-1]), len(fit.growth)
        does = f"grow {last:.3g} times" if not last < 1 else f"shrink to {last:.3g} of the first"
        most = ", as long as most episodes last" if steps < HORIZON else ""
        rows.append(("slopes", f"{does} in {steps} steps{most}"))
    if fit.cosine is not None:
        rows.append(("learned gradient", f"cosine {fit.cosine:.3f} with the true one"))
    return rows


def _bounds(env: MultiAgentVectorEnv) -> str:
    """Return the bounds of all numbers of actions, each pair of them once."""
    low, high = env.action_low[env.valid_action_dims], env.action_high[env.valid_action_dims]
    pairs = dict.fromkeys(zip(low.tolist(), high.tolist(), strict=True))
    if len(pairs) > 4:
        return f"boxes within [{float(low.min()):g}, {float(high.max()):g}]"
    return " and ".join(f"[{least:g}, {most:g}]" for least, most in pairs)


def describe(found: Diagnosis) -> str:
    """Return what was found as text, a line each."""
    env, conduct, met, own = found.env, found.conduct, found.random_play, found.own
    actions = f"{env.act_dim} choices" if env.discrete_actions else f"{env.act_dim} numbers"
    if env.action_mask_slice is not None:
        actions += ", not all of them open all the time,"
    if not env.discrete_actions:
        actions += f" in {_bounds(env)}"
    padded = int((~env.observation_mask).sum())
    padding = f", {padded} entries are padding" if padded else ""
    gradients = " and ".join(own.kinds) or f"none: {own.reason}"
    if own.kinds and own.report is None:
        gradients += f", not checked: {own.reason}"
    rewarded = ", ".join(f"{share:.2%} under {kind} noise" for kind, share in met.rewarded.items())
    if min(met.rewarded.values()) > DENSE:
        rewarded = "nearly every transition has a reward of its own"
    else:
        rewarded += f" have another reward than {met.usual_reward:.3g}"
    rows: list[tuple[str, str]] = [
        ("agents", f"{env.num_agents}, {env.num_envs} copies"),
        ("observation", f"{env.obs_dim} numbers per agent{padding}"),
        ("action", f"{actions} per agent"),
        ("global state", _global_state(env)),
        ("time limit", "none" if env.max_steps is None else f"{env.max_steps} steps"),
        ("largest return", "not known" if env.max_return() is None else "known"),
        ("repeatable", "yes" if conduct.repeats else "NO"),
        ("saves its state", {True: "yes", False: "WRONGLY", None: "no"}[conduct.continues]),
        ("out of its space", f"{conduct.outside:.2%} of observed entries"),
        ("random policy", f"{met.transitions:,} transitions"),
        ("ends of episodes", _ends(found)),
        (
            "reward",
            f"mean {met.reward_mean:.3g}, deviation {met.reward_deviation:.3g}, from "
            f"{met.smallest_reward:.3g} to {met.largest_reward:.3g}"
            + ("; the same for all agents" if met.team_reward else ""),
        ),
        ("rewarded", rewarded),
        ("flags", f"{met.whole_entries} entries of few whole numbers; no gradient passes them"),
        ("of no use", _shortened(met.useless)),
        ("own gradients", gradients),
    ]
    rows += _fit_rows(found.fit)
    width = max(len(name) for name, _ in rows)
    lines = [found.name, *(f"  {name:<{width}}  {value}" for name, value in rows)]
    if own.report is not None:
        lines += ["", *own.report.splitlines()]
    return "\n".join(lines) + "\n"

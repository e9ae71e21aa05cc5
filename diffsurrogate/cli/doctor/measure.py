"""What an env is like for learning by gradients: all of it measured on the env itself."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from gymnasium.spaces import Box
from torch import Tensor

from diffsurrogate.actor_critic.actor import Actor, ActorConfig, NoisyPolicy
from diffsurrogate.actor_critic.exploration import NoiseConfig, NoiseKind, NoiseProcess
from diffsurrogate.cli.doctor.findings import Conduct, Diagnosis, Fit, OwnGradients, RandomPlay
from diffsurrogate.envs.env import MultiAgentVectorEnv
from diffsurrogate.envs.window import Window
from diffsurrogate.errors import UsageError
from diffsurrogate.gradients.finite_differences import check_gradients
from diffsurrogate.nets.normaliser import ValuesSeen
from diffsurrogate.seeding import derive_env_seed, derive_seed, seeded
from diffsurrogate.surrogates.config import FitConfig, SurrogateConfig
from diffsurrogate.surrogates.held_out import fvu_by_feature
from diffsurrogate.wrappers.learned import LearnedDiffWrapper

HORIZON = 32
"""Steps of a window, as trainers take them."""
_PER_MINIBATCH = 25
"""Transitions that pay for one minibatch of each model: 10,000 for what a training does in 50
updates."""


def diagnose(env: MultiAgentVectorEnv, name: str, *, transitions: int, seed: int) -> Diagnosis:
    """Try an env out.

    Raises:
        UsageError: the env refuses a step of its own, or no transition is finite.
    """
    repeats, continues = _repeats(env, seed), _continues(env, seed)
    env.reset(seed=seed)
    # so that some ends are seen early
    env.randomise_episode_phase(torch.Generator().manual_seed(seed))
    kinds: tuple[NoiseKind, ...] = ("white",) if env.discrete_actions else ("white", "ou")
    count = max(2, -(-transitions // (env.num_envs * HORIZON * len(kinds))))
    windows = {kind: [_window(env, kind, seed + k) for k in range(count)] for kind in kinds}
    everything = [window for part in windows.values() for window in part]
    own = _own_gradients(env, seed)
    env.reset(seed=derive_env_seed(seed, "doctor held out"))
    held = [_window(env, kind, seed + count) for kind in kinds]
    fit = _fit(env, everything, held, own, seed)
    return Diagnosis(
        name=name,
        env=env,
        conduct=_conduct(env, [*everything, *held], repeats, continues),
        random_play=_experience(env, windows),
        own=own,
        fit=fit,
        windows=tuple(everything),
    )


# --- conduct ---------------------------------------------------------------------------------


def _policy(env: MultiAgentVectorEnv, kind: NoiseKind, seed: int) -> NoisyPolicy:
    """Return a new policy, which does hardly more than its noise."""
    generator = torch.Generator(env.device).manual_seed(derive_seed(seed, f"doctor {kind}"))
    shape = (env.num_envs, env.num_agents, env.act_dim)
    noise = NoiseProcess(NoiseConfig(kind=kind), shape, generator).draw(HORIZON)
    with seeded(derive_seed(seed, "doctor weights")):
        actor = Actor.of(ActorConfig(), env)
    return NoisyPolicy(actor.to(env.device), noise)


def _window(env: MultiAgentVectorEnv, kind: NoiseKind, seed: int) -> Window:
    return env.collect(_policy(env, kind, seed), HORIZON)


def _same(one: Window, other: Window) -> bool:
    """Return whether all numbers are the same; NaN is the same as NaN."""
    pairs = (
        (getattr(one, name), getattr(other, name))
        for name in ("obs", "reward", "next_obs", "terminated", "truncated")
    )
    return all(bool(((a == b) | ((a != a) & (b != b))).all()) for a, b in pairs)


def _repeats(env: MultiAgentVectorEnv, seed: int) -> bool:
    found = []
    for _ in range(2):
        env.reset(seed=seed)
        found.append(_window(env, "white", seed))
    return _same(*found)


def _continues(env: MultiAgentVectorEnv, seed: int) -> bool | None:
    try:
        state = env.state()
    except NotImplementedError:
        return None
    first = _window(env, "white", seed)
    env.set_state(state)
    return _same(first, _window(env, "white", seed))


def _conduct(
    env: MultiAgentVectorEnv, windows: Sequence[Window], repeats: bool, continues: bool | None
) -> Conduct:
    space = env.single_observation_space
    assert isinstance(space, Box)
    low, high = (torch.as_tensor(bound, device=env.device) for bound in (space.low, space.high))
    outside, not_finite = [], 0
    for window in windows:
        inside = (window.next_obs >= low) & (window.next_obs <= high)
        outside.append(float((~inside[..., env.observation_mask]).float().mean()))
        for values in (window.next_obs, window.reward):
            not_finite += int((~values.isfinite()).sum())
    last = torch.cat([window.next_obs[:-1][window.ended[:-1]] for window in windows])
    fresh = torch.cat([window.obs[1:][window.ended[:-1]] for window in windows])
    return Conduct(
        repeats=repeats,
        continues=continues,
        outside=sum(outside) / len(outside),
        not_finite=not_finite,
        ends=len(last),
        not_reset=_not_reset(windows, last, fresh),
    )


def _not_reset(windows: Sequence[Window], last: Tensor, fresh: Tensor) -> int:
    """Count ends after which the observation stayed; 0 if chance explains as many.

    Where observations take few values, a fresh one may be any last one. How often it is tells the
    mean of a Poisson variable, of which four deviations are allowed.

    Args:
        windows: what was observed.
        last: (end, agent, obs_dim), where episodes ended.
        fresh: (end, agent, obs_dim), what was observed next.
    """
    ends = len(last)
    if ends == 0 or not any(bool((window.obs != window.obs[:1, :1]).any()) for window in windows):
        return 0
    numbers = torch.cat([last, fresh]).flatten(1).unique(dim=0, return_inverse=True)[1]
    ended, began = numbers[:ends], numbers[ends:]
    stays = int((ended == began).sum())
    values = int(numbers.max()) + 1
    pairs = torch.bincount(ended, minlength=values) * torch.bincount(began, minlength=values)
    by_chance = (int(pairs.sum()) - stays) / max(1, ends - 1)
    return stays if stays > by_chance + 4 * by_chance**0.5 else 0


# --- experience ------------------------------------------------------------------------------


def _experience(env: MultiAgentVectorEnv, windows: Mapping[NoiseKind, list[Window]]) -> RandomPlay:
    everything = [window for part in windows.values() for window in part]
    reward = torch.cat([window.reward.flatten(0, 1) for window in everything])
    obs = torch.cat([window.next_obs.flatten(0, 1) for window in everything])
    finite = reward[reward.isfinite()]
    values, counts = finite.unique(return_counts=True)
    usual = values[counts.argmax()]
    rewarded = {}
    for kind, part in windows.items():
        got = torch.cat([window.reward.flatten(0, 1) for window in part])
        rewarded[kind] = float(((got != usual) & got.isfinite()).any(-1).float().mean())
    deviation = obs.std(0)
    still = (deviation == 0) & env.observation_mask
    values = ValuesSeen(tuple(still.shape))
    values.update(obs.flatten(1).double(), torch.ones_like(still))
    whole = ~values.measurement & env.observation_mask & ~still
    moving = deviation[env.observation_mask & ~still & deviation.isfinite()]
    return RandomPlay(
        transitions=len(reward),
        rewarded=rewarded,
        usual_reward=float(usual),
        reward_mean=float(finite.mean()),
        reward_deviation=float(finite.std(correction=0)),
        smallest_reward=float(finite.min()),
        largest_reward=float(finite.max()) + 0.0,  # no -0
        team_reward=bool((reward == reward[:, :1]).all()) and env.num_agents > 1,
        terminated=sum(int(window.terminated.sum()) for window in everything),
        truncated=sum(int((w.truncated & ~w.terminated).sum()) for w in everything),
        whole_entries=int(whole.sum()),
        still_entries=int(still.sum()),
        useless=_useless(env, obs, still),
        scales=(float(moving.min()), float(moving.max())) if len(moving) else (0.0, 0.0),
    )


def _useless(env: MultiAgentVectorEnv, obs: Tensor, still: Tensor) -> tuple[str, ...]:
    """Name the entries of obs (step, agent, obs_dim) which are constant or repeat another."""
    found = []
    for agent, name in enumerate(env.agents):
        number = obs[:, agent].unique(dim=1, return_inverse=True)[1].tolist()
        first: dict[int, int] = {}
        for entry, column in enumerate(number):
            same = first.setdefault(column, entry)
            if bool(still[agent, entry]):
                found.append(f"{name}[{entry}] is constant")
            elif same != entry and bool(env.observation_mask[agent, entry]):
                found.append(f"{name}[{entry}] equals [{same}]")
    return tuple(found)


# --- gradients -------------------------------------------------------------------------------


def _own_gradients(env: MultiAgentVectorEnv, seed: int) -> OwnGradients:
    """Ask the env for its gradients and hold them against finite differences."""
    kinds: list[str] = []
    reason: str | None = None
    for wanted in (("dynamics",), ("dynamics", "reward")):
        try:
            env.enable_gradients(*wanted)
            kinds.append(wanted[-1])
        except UsageError as error:
            reason = reason or str(error)
    report = None
    if kinds:
        try:
            longest = env.max_steps or 9
            horizon = None if longest > 8 else max(1, longest - 1)  # within an episode
            report = str(check_gradients(env, horizon=horizon, seed=seed))
        except (UsageError, NotImplementedError) as error:
            reason = str(error)
        env.disable_gradients()
        env.detach()
    return OwnGradients(kinds=tuple(kinds), report=report, reason=reason)


def _fit(
    env: MultiAgentVectorEnv,
    windows: Sequence[Window],
    held: Sequence[Window],
    own: OwnGradients,
    seed: int,
) -> Fit:
    """Learn models from some windows and try them on others, of new episodes."""
    wrapped = LearnedDiffWrapper(
        env, config=SurrogateConfig(fit=FitConfig(minibatches=1)), seed=seed
    )
    models = wrapped.surrogates
    for window in windows:
        models.store(window)
    seen = sum(window.terminated.numel() for window in windows)
    models.train_models(max(1, seen // _PER_MINIBATCH))
    unseen = _joined(held)
    with torch.no_grad():
        predicted, after, _ = wrapped.predict_step(unseen.obs, unseen.action)
    assert models.dynamics is not None
    usual = models.dynamics.usual_change
    sample = torch.randperm(unseen.reward.numel(), generator=torch.Generator().manual_seed(seed))
    pair = torch.stack([unseen.reward.flatten(), predicted.flatten()])[:, sample[:2000]]
    return Fit(
        reward_error=models.held_out_errors(unseen)["reward_error"],
        seen_error=models.held_out_errors(_joined(windows))["reward_error"],
        episodes=env.num_envs + int(unseen.ended[:-1].sum()),
        entry_errors=fvu_by_feature(after, unseen, models.continuous.mask, usual).cpu(),
        rewards=pair.cpu(),
        growth=None if env.discrete_actions else _growth(wrapped, seed),
        cosine=_cosine(wrapped, seed) if "dynamics" in own.kinds else None,
    )


def _joined(windows: Sequence[Window]) -> Window:
    """Return windows one after another as one."""
    return Window(
        **{
            name: torch.cat([getattr(window, name) for window in windows])
            for name in ("obs", "action", "reward", "next_obs", "terminated", "truncated")
        }
    )


def _growth(wrapped: LearnedDiffWrapper, seed: int) -> Tensor:
    """Return how a first action's influence on observations grows, by the models.

    From starts of episodes, as far as at least half of them go: what follows a reset depends on
    nothing before it.
    """
    wrapped.reset(seed=seed)
    policy = _policy(wrapped, "white", seed)
    policy.noise = policy.noise.requires_grad_()
    window = wrapped.rollout(policy, HORIZON)
    generator = torch.Generator().manual_seed(seed)
    direction = torch.randn(window.next_obs.shape[2:], generator=generator).to(wrapped.device)
    continue_prob = torch.ones_like(window.ended[0])
    start: Tensor | None = None
    found: list[Tensor] = []
    for obs, ended in zip(window.next_obs, window.ended, strict=True):
        if 2 * int(continue_prob.sum()) < len(continue_prob):
            break
        (slope,) = torch.autograd.grad(
            (obs * direction).sum(), policy.noise, retain_graph=True, allow_unused=True
        )
        first = torch.zeros_like(policy.noise[0]) if slope is None else slope[0]
        norms = first.flatten(1).norm(dim=1)
        start = norms if start is None else start
        found.append(
            (norms[continue_prob].norm() / start[continue_prob].norm().clamp(min=1e-12)).cpu()
        )
        continue_prob = continue_prob & ~ended
    wrapped.detach()
    return torch.stack(found)


def _cosine(wrapped: LearnedDiffWrapper, seed: int) -> float | None:
    policy = _policy(wrapped, "white", seed)

    def again() -> NoisyPolicy:
        policy.step = 0
        return policy

    def loss(window: Window) -> Tensor:
        return -window.reward.mean()

    parameters: list[Any] = [p for p in policy.actor.parameters() if p.requires_grad]
    try:
        report = wrapped.compare_gradients(again, HORIZON, loss, parameters)
    except (UsageError, NotImplementedError):
        return None
    return report["gradient_cosine"]

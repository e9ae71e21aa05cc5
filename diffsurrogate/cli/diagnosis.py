"""What an env is like for learning by gradients: all of it measured on the env itself."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from gymnasium.spaces import Box
from torch import Tensor

from diffsurrogate.cli.findings import (
    Conduct,
    Diagnosis,
    Experience,
    Fit,
    OwnGradients,
    Shape,
)
from diffsurrogate.env import MultiAgentVectorEnv
from diffsurrogate.errors import UsageError
from diffsurrogate.gradcheck import check_gradients
from diffsurrogate.model_errors import unexplained_entries
from diffsurrogate.noise import NoiseConfig, NoiseKind, NoiseProcess
from diffsurrogate.policies import Actor, ActorConfig, NoisyPolicy
from diffsurrogate.seeding import derive_seed
from diffsurrogate.surrogate_config import SurrogateConfig
from diffsurrogate.window import Window
from diffsurrogate.wrappers.learned import LearnedDiffWrapper

HORIZON = 32
"""Steps of a window, as trainers take them."""
_PER_MINIBATCH = 25
"""Transitions that pay for one minibatch of each model: 10,000 for what a training does in 50
updates."""


def diagnose(env: MultiAgentVectorEnv, name: str, *, transitions: int, seed: int) -> Diagnosis:
    """Try an env out.

    Args:
        env: of several copies; it is reset.
        name: for the report.
        transitions: to learn the models from, counted over the copies.
        seed: of resets, actions and models.
    """
    shape = _shape(env)
    repeats, continues = _repeats(env, seed), _continues(env, seed)
    env.reset(seed=seed)
    kinds: tuple[NoiseKind, ...] = ("white",) if env.discrete_actions else ("white", "ou")
    count = max(2, -(-transitions // (env.num_envs * HORIZON * len(kinds))))
    windows = {kind: [_window(env, kind, seed + k) for k in range(count)] for kind in kinds}
    everything = [window for part in windows.values() for window in part]
    own = _own_gradients(env, seed)
    held = [_window(env, kind, seed + count) for kind in kinds]
    fit = _fit(env, everything, held, own, seed)
    return Diagnosis(
        env=name,
        shape=shape,
        conduct=_conduct(env, everything, repeats, continues),
        experience=_experience(env, windows),
        own=own,
        fit=fit,
        windows=tuple(everything),
    )


def _shape(env: MultiAgentVectorEnv) -> Shape:
    env.reset(seed=0)
    return Shape(
        num_envs=env.num_envs,
        agents=env.num_agents,
        obs_dim=env.obs_dim,
        act_dim=env.act_dim,
        discrete=env.discrete_actions,
        lowest_action=float(env.action_low.min()),
        highest_action=float(env.action_high.max()),
        padded_obs=int((~env.observation_mask).sum()),
        padded_actions=int((~env.action_mask).sum()),
        max_steps=env.max_steps,
        renders=env.render_mode == "rgb_array",
        maximum_known=env.max_return() is not None,
        closes_choices=env.open_choices is not None,
        state_size=len(range(env.obs_dim)[env.state_columns or slice(0)]),
        offers_state=env.offers_state,
    )


# --- conduct ---------------------------------------------------------------------------------


def _policy(env: MultiAgentVectorEnv, kind: NoiseKind, seed: int) -> NoisyPolicy:
    """Return a new policy, which does hardly more than its noise."""
    generator = torch.Generator(env.device).manual_seed(derive_seed(seed, f"doctor {kind}"))
    shape = (env.num_envs, env.num_agents, env.act_dim)
    noise = NoiseProcess(NoiseConfig(kind=kind), shape, generator).draw(HORIZON)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "doctor weights"))
        actor = Actor.of(ActorConfig(), env)
    return NoisyPolicy(actor.to(env.device), noise)


def _window(env: MultiAgentVectorEnv, kind: NoiseKind, seed: int) -> Window:
    return env.collect(_policy(env, kind, seed), HORIZON)


def _same(one: Window, other: Window) -> bool:
    return all(
        torch.equal(getattr(one, name), getattr(other, name))
        for name in ("obs", "reward", "next_obs", "terminated", "truncated")
    )


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
    outside, not_finite, not_reset = [], 0, 0
    for window in windows:
        inside = (window.next_obs >= low) & (window.next_obs <= high)
        outside.append(float((~inside[..., env.observation_mask]).float().mean()))
        for values in (window.next_obs, window.reward):
            not_finite += int((~values.isfinite()).sum())
        ended = window.ended[:-1]
        stays = (window.obs[1:] == window.next_obs[:-1]).flatten(2).all(-1)
        not_reset += int((ended & stays).sum())
    return Conduct(
        repeats=repeats,
        continues=continues,
        outside=sum(outside) / len(outside),
        not_finite=not_finite,
        not_reset=not_reset,
    )


# --- experience ------------------------------------------------------------------------------


def _experience(env: MultiAgentVectorEnv, windows: Mapping[NoiseKind, list[Window]]) -> Experience:
    everything = [window for part in windows.values() for window in part]
    reward = torch.cat([window.reward.flatten(0, 1) for window in everything])
    obs = torch.cat([window.next_obs.flatten(0, 1) for window in everything])
    values, counts = reward.unique(return_counts=True)
    usual = values[counts.argmax()]
    rewarded = {
        kind: float(
            torch.cat([(window.reward != usual).any(-1).flatten() for window in part])
            .float()
            .mean()
        )
        for kind, part in windows.items()
    }
    deviation = obs.std(0)
    still = (deviation == 0) & env.observation_mask
    whole = (obs == obs.round()).all(0) & env.observation_mask & ~still
    moving = deviation[env.observation_mask & ~still]
    return Experience(
        transitions=len(reward),
        rewarded=rewarded,
        usual_reward=float(usual),
        reward_mean=float(reward.mean()),
        reward_deviation=float(reward.std()),
        smallest_reward=float(reward.min()),
        largest_reward=float(reward.max()),
        team_reward=bool((reward == reward[:, :1]).all()) and env.num_agents > 1,
        terminated=sum(int(window.terminated.sum()) for window in everything),
        truncated=sum(int(window.truncated.sum()) for window in everything),
        whole_entries=int(whole.sum()),
        still_entries=int(still.sum()),
        scales=(float(moving.min()), float(moving.max())) if len(moving) else (0.0, 0.0),
    )


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
    report, passed = None, False
    if kinds:
        try:
            horizon = max(1, min(8, (env.max_steps or 9) - 1))  # within an episode
            checked = check_gradients(env, horizon=horizon, seed=seed)
            report, passed = str(checked), checked.passed
        except (UsageError, NotImplementedError) as error:
            reason = str(error)
        env.disable_gradients()
        env.detach()
    return OwnGradients(kinds=tuple(kinds), report=report, passed=passed, reason=reason)


def _fit(
    env: MultiAgentVectorEnv,
    windows: Sequence[Window],
    held: Sequence[Window],
    own: OwnGradients,
    seed: int,
) -> Fit:
    """Learn models from some windows and try them on others."""
    wrapped = LearnedDiffWrapper(env, config=SurrogateConfig(minibatches=1), seed=seed)
    models = wrapped.surrogates
    for window in windows:
        models.fit(window)
    seen = sum(window.terminated.numel() for window in windows)
    models.train_models(max(1, seen // _PER_MINIBATCH))
    errors = [models.held_out_errors(window) for window in held]
    whole = Window(
        **{
            name: torch.cat([getattr(window, name) for window in held], dim=1)
            for name in ("obs", "action", "reward", "next_obs", "terminated", "truncated")
        }
    )
    with torch.no_grad():
        predicted, after, _ = wrapped.predict_step(whole.obs, whole.action)
    sample = torch.randperm(whole.reward.numel(), generator=torch.Generator().manual_seed(seed))
    pair = torch.stack([whole.reward.flatten(), predicted.flatten()])[:, sample[:2000]]
    return Fit(
        reward_error=sum(e["reward_error"] for e in errors) / len(errors),
        entry_errors=unexplained_entries(after, whole, models.continuous.mask).cpu(),
        rewards=pair.cpu(),
        growth=None if env.discrete_actions else _growth(wrapped, seed),
        cosine=_cosine(wrapped, seed) if "dynamics" in own.kinds else None,
    )


def _growth(wrapped: LearnedDiffWrapper, seed: int) -> Tensor:
    """Return how a first action's influence on observations grows, by the models."""
    policy = _policy(wrapped, "white", seed)
    policy.noise = policy.noise.requires_grad_()
    window = wrapped.rollout(policy, HORIZON)
    generator = torch.Generator().manual_seed(seed)
    direction = torch.randn(window.next_obs.shape[2:], generator=generator).to(wrapped.device)
    norms = []
    for obs in window.next_obs:
        (slope,) = torch.autograd.grad(
            (obs * direction).sum(), policy.noise, retain_graph=True, allow_unused=True
        )
        norms.append(torch.zeros(()) if slope is None else slope[0].norm().cpu())
    found = torch.stack(norms)
    wrapped.detach()
    return found / found[0].clamp(min=1e-12)


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

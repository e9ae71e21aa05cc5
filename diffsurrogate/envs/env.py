"""The env protocol: a Gymnasium vector env with an agent axis, torch tensors and gradients.

Trainers and wrappers meet here and nowhere else. Axes are `(time, env, agent, feature)`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Tensor
from torch.profiler import record_function

from diffsurrogate.envs.action_space import clamp_to_box, expect_action
from diffsurrogate.envs.bounds import Bounds, float32_inside
from diffsurrogate.envs.checks import StepChecks, check_seed, check_world, other_options, reset_mask
from diffsurrogate.envs.episodes import RESERVED, Episodes
from diffsurrogate.envs.modes import check_defaults, keep_outside, usable
from diffsurrogate.envs.observation_slices import available_actions, check_columns
from diffsurrogate.envs.raw_form import RawForm
from diffsurrogate.envs.window import GradientGuard, Window, WindowPolicy, check_horizon, step_of
from diffsurrogate.errors import UsageError
from diffsurrogate.functional.discrete_actions import straight_through_one_hot

Policy = Callable[[Tensor], Tensor]
"""Maps obs `(env, agent, obs_dim)` to actions `(env, agent, act_dim)`, clamped by the env."""
_CALLED = frozenset(["__init__", "reset", "step", "state", "set_state", "rollout", "collect"])
State = dict[str, Any]
"""Nested dicts, lists and tuples of tensors and plain numbers: loadable with `weights_only`."""


class MultiAgentVectorEnv(VectorEnv[Tensor, Tensor, Tensor]):
    """`num_envs` envs with `num_agents` agents each, stepped together as torch tensors.

    Subclasses implement `_reset_all`, `_reset_where`, `_advance` and `detach`, and, if the
    simulator's state can be saved, `_save` and `_restore`. The base class checks and clamps
    actions, counts steps, truncates episodes at `max_steps` and resets ended envs in the same step
    (`AutoresetMode.SAME_STEP`, with `info["final_obs"]` and `info["_final_obs"]`).

    This extends Gymnasium's API: rewards are `(env, agent)`, not `(env,)`.
    """

    metadata: dict[str, Any] = {"autoreset_mode": AutoresetMode.SAME_STEP, "render_modes": []}  # noqa: RUF012
    discrete_actions: bool = False
    """Whether each agent has `act_dim` discrete actions, given as rows in the box [0, 1]^act_dim;
    the simulator takes the argmax."""
    action_mask_slice: slice | None = None
    """The observation slice of the action mask: 1 for the `act_dim` actions available now, else 0;
    None if all always are. The env replaces an unavailable action by the available one with the
    largest value, the first of equals."""
    global_state_slice: slice | None = None
    """The observation slice of the global state, the same for all agents; None if there is none.
    Critics and models read it, policies do not (`Actor`)."""
    offers_state: bool = False
    """Whether `make(..., state=True)` can append a global state, at `global_state_slice`."""
    resets_itself: bool = False
    """Whether the simulator resets envs itself when their episodes end, and at no other time."""
    articulated: bool = False
    """Whether bodies with joints are simulated, which fall over where actions are large; trainers
    then begin with little exploration noise."""

    shares_simulator: bool = False
    """Whether another adapter of the same raw env would move this one's simulator too."""
    takes_reset_options: bool = False
    """Whether `_reset_all` and `_reset_where` obey `_reset_options`; else any are refused."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Let what users call run outside of inference mode."""
        super().__init_subclass__(**kwargs)
        keep_outside(cls, _CALLED)

    def __init__(
        self,
        *,
        num_envs: int,
        agents: Sequence[str],
        observation_space: gymnasium.spaces.Box,
        action_space: gymnasium.spaces.Box,
        device: torch.device | str = "cpu",
        gradients: Iterable[str] = (),
        max_steps: int | None = None,
        check_bounds: bool = True,
    ) -> None:
        """Describe the env.

        Args:
            num_envs: number of envs that step together.
            agents: one name per agent.
            observation_space: box `(agent, obs_dim)` of one env.
            action_space: box `(agent, act_dim)` of one env, with finite bounds; actions are float32
                and inside of it, whatever its dtype.
            device: of all tensors.
            gradients: the env's native gradients: a subset of {"dynamics", "reward"}.
            max_steps: steps after which an episode is truncated; None for never.
            check_bounds: refuse observations outside their finite bounds, by more than a thousandth
                of the range.
        """
        if action_space.dtype != np.float32:
            action_space = float32_inside(action_space)
        check_defaults()
        check_world(num_envs, agents, observation_space, action_space, max_steps)
        self.num_envs = num_envs
        self.agents = list(agents)
        self.num_agents = len(self.agents)
        self.device = torch.device(device)
        self.gradients = frozenset(gradients)
        """Gradients enabled now: a subset of {"dynamics", "reward"}."""
        self.max_steps = max_steps
        self.single_observation_space = observation_space
        self.single_action_space = action_space
        self.observation_space = batch_space(observation_space, num_envs)
        self.action_space = batch_space(action_space, num_envs)
        self.action_low = torch.as_tensor(action_space.low, device=self.device)
        """(agent, act_dim) float32."""
        self.action_high = torch.as_tensor(action_space.high, device=self.device)
        """(agent, act_dim) float32."""
        self.observation_mask = torch.ones(
            observation_space.shape, dtype=torch.bool, device=self.device
        )
        """(agent, obs_dim) bool: False where an agent's observation is padding."""
        self.valid_action_dims = torch.ones(
            action_space.shape, dtype=torch.bool, device=self.device
        )
        """(agent, act_dim) bool: False where an agent's action is padding."""
        self.max_horizon: int | None = None
        """Longest window that can be differentiated; None for any."""
        self.gradient_guard = GradientGuard()
        self._current: Tensor | None = None
        self._given_up = False
        self._reset_options: dict[str, Any] = {}  # of the reset that runs
        self._restarts_broken = False
        bounds = Bounds.of(observation_space, self.device) if check_bounds else None
        shape = (num_envs, self.num_agents, self.obs_dim)
        self._step_checks = StepChecks(type(self).__name__, self.agents, shape, bounds)
        self._episodes = Episodes(num_envs, self.device)

    def __repr__(self) -> str:
        """Return kind and sizes, on one line."""
        limit = "no time limit" if self.max_steps is None else f"{self.max_steps} steps"
        kind = type(self).__name__
        of = "" if kind == self.name_in_errors else f" of {self.name_in_errors}"
        return (
            f"<{kind}{of}: num_envs={self.num_envs}, agents={self.num_agents}, "
            f"obs_dim={self.obs_dim}, act_dim={self.act_dim}"
            f"{' (discrete)' if self.discrete_actions else ''}, {limit}>"
        )

    def __getstate__(self) -> dict[str, Any]:
        why_not = self._why_not_copied()
        if why_not:
            raise UsageError(
                f"this {type(self).__name__} cannot be copied or pickled: {why_not}; make another "
                "like it instead, and save a trainer by agent.save(path), to be read by the "
                "trainer's load(path, env)"
            )
        return vars(self)

    @property
    def name_in_errors(self) -> str:
        """The class of the env, where an adapter steps one; else of this one."""
        return self._step_checks.name

    @property
    def obs_dim(self) -> int:
        """Features of one agent's observation."""
        return int(self.single_observation_space.shape[1])  # type: ignore[index]

    @property
    def act_dim(self) -> int:
        """Features of one agent's action."""
        return int(self.single_action_space.shape[1])  # type: ignore[index]

    @property
    def current_obs(self) -> Tensor:
        """(env, agent, obs_dim): the current observation, with its graph if there is one."""
        if self._current is None:
            self._refuse_if_given_up()
            raise UsageError("the env was not reset; call env.reset() before stepping it")
        return self._current

    def give_up(self) -> None:
        """Refuse every further step and reset: another adapter has the raw env now."""
        self._current, self._given_up = None, True

    def _refuse_if_given_up(self) -> None:
        if self._given_up:
            raise UsageError(
                f"this {type(self).__name__} has lost its raw env, which was adapted or wrapped "
                "once more and is moved by the newer env; go on with that one, or give each a raw "
                "env of its own"
            )

    @property
    def episode_start(self) -> Tensor:
        """(env,) bool: `current_obs` is the first of its episode; hidden states reset there."""
        return self._episodes.started

    @property
    def alive_mask(self) -> Tensor | None:
        """(env, agent) bool: which agents are alive at `current_obs`; None if all are."""
        return None

    @property
    def gradient_trust(self) -> float:
        """Weight, in [0, 1], that trainers give the env's gradient beside another; 1 if native."""
        return 1.0

    @property
    def native_gradients(self) -> frozenset[str]:
        """Gradients the simulator can provide: a subset of {"dynamics", "reward"}."""
        return self.gradients

    @property
    def raw_form(self) -> RawForm:
        """How the env behind this one gives observations and takes actions."""
        seen = self.observation_mask.clone()
        if self.global_state_slice is not None:
            seen[:, self.global_state_slice] = False
        return RawForm(self.agents, seen, self.valid_action_dims, discrete=self.discrete_actions)

    # --- what a simulator must provide -------------------------------------------------------

    def _reset_all(self, seed: int | None) -> Tensor:
        """Reset every env and return obs `(env, agent, obs_dim)`."""
        raise NotImplementedError

    def _reset_where(self, mask: Tensor) -> Tensor:
        """Reset the envs where `mask` (env,) is set; return obs of all, the others' unchanged."""
        raise NotImplementedError

    def _advance(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Step with valid actions; return obs, reward `(env, agent)` and terminated `(env,)`."""
        raise NotImplementedError

    def _cut_short(self) -> Tensor:
        """Return which envs the simulator itself truncated in the last `_advance`: (env,) bool.

        None, unless overridden; `max_steps` is counted by the base class.
        """
        return torch.zeros(self.num_envs, dtype=torch.bool, device=self.device)

    def _report(self) -> dict[str, Tensor]:
        """Return numbers `(env,)` that the simulator told beside the last `_advance`, by name.

        Such as whether a task was solved; NaN where an env told none. None, unless overridden.
        """
        return {}

    def _awaited(self) -> str:
        """Say which part of the simulator has not answered yet, for the warning that it hangs.

        Called from another thread in the midst of a call. "" unless overridden.
        """
        return ""

    def _why_not_copied(self) -> str:
        """Say why `copy.deepcopy` and `pickle` would fail or lose the state; "" if they do not."""
        return ""

    def detach(self) -> None:
        """Detach the state from its graph; the simulation goes on unchanged."""
        raise NotImplementedError

    def enable_gradients(self, *kinds: str) -> None:
        """Enable native gradients, from the next reset or `detach()` on.

        Raises:
            UsageError: the env does not have them.
        """
        missing = sorted(set(kinds) - self.gradients)
        if missing:
            raise UsageError(
                f"{self.name_in_errors} has no {' and no '.join(missing)} gradient of its own; "
                "leave it to LearnedDiffWrapper to learn one"
            )

    def disable_gradients(self) -> None:
        """Disable native gradients, if that makes the env faster."""

    def max_return(self) -> Tensor | None:
        """Return the largest attainable return (env,) since the last reset, if known."""
        return None

    def contacts(self) -> Tensor | None:
        """Return which envs are in contact in the current state, (env,) bool; None if not known.

        A contact that begins or ends is a kink of the dynamics: `check_gradients` judges envs in
        contact on their own.
        """
        return None

    def _save(self) -> State:
        """Return the simulator's state, random state included."""
        raise NotImplementedError(f"{type(self).__name__} cannot save its state: give it _save")

    def _restore(self, state: State) -> None:
        """Restore what `_save` returned."""
        raise NotImplementedError(f"{type(self).__name__} cannot restore: give it _restore")

    # --- what trainers and users call ----------------------------------------------------------

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Tensor, dict[str, Any]]:
        """Reset every env, or some.

        Args:
            seed: new random seed, one number for all envs; None keeps the random state.
            options: {"reset_mask": (env,) bool} resets those envs only; the others go on. Envs of
                libraries whose `reset` takes options get the rest, for this reset only.

        Returns:
            obs `(env, agent, obs_dim)` float32 and an empty info.

        Raises:
            UsageError: `action_mask_slice` or `global_state_slice` is invalid, the mask does not
                fit or comes with a seed, the env takes no such options, or the simulator resets
                envs only by itself.
        """
        check_seed(seed)
        mask = reset_mask(options, self.num_envs, seed)
        self._reset_options = other_options(
            options, self.name_in_errors, taken=self.takes_reset_options
        )
        try:
            return self._reset_now(mask, seed)
        finally:
            self._reset_options = {}

    def _reset_now(self, mask: Tensor | None, seed: int | None) -> tuple[Tensor, dict[str, Any]]:
        if mask is not None:
            return self._start_some(mask.to(self.device)), {}
        self._refuse_if_given_up()
        roles = self.action_mask_slice, self.global_state_slice
        check_columns(
            *roles, obs_dim=self.obs_dim, act_dim=self.act_dim, discrete=self.discrete_actions
        )
        self._current = self._step_checks.reset(self._reset_all, seed)
        self._episodes.begin()
        return self._current, {}

    def _start_some(self, mask: Tensor) -> Tensor:
        """Reset the envs where `mask` (env,) is set, even in the middle of an episode."""
        if self.resets_itself:
            raise UsageError(
                f"{self.name_in_errors} resets an env only when its episode ends; leave out "
                'options={"reset_mask": ...}'
            )
        before, steps = self.current_obs, self._episodes.steps
        obs = self._step_checks.reset(self._reset_where, mask, steps, before)
        obs = torch.where(mask[:, None, None], obs, before)
        self._step_checks.fresh(steps, obs)
        self._episodes.begin(mask)
        self._current = obs
        return obs

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Any]]:
        """Advance every env one step and reset those that ended.

        Args:
            actions: (env, agent, act_dim) float32; clamped to the box, or the argmax if discrete.

        Returns:
            obs `(env, agent, obs_dim)`, reward `(env, agent)`, terminated and truncated `(env,)`
            bool, and info with `final_obs` (env, agent, obs_dim), the observation before the
            reset, and `_final_obs` (env,), True where the env was reset; and the numbers (env,)
            that the env reports, such as `is_success`, of the step before any reset.

        Raises:
            UsageError: the action, or a value from the simulator, has a wrong shape or dtype or is
                not finite; or the env was never reset.
        """
        seen = self.current_obs
        self.check_action(actions)
        box = self.action_low, self.action_high
        action = self._one_hot(actions) if self.discrete_actions else clamp_to_box(actions, *box)
        steps = self._episodes.steps + 1
        next_obs, reward, terminated = self._step_checks.step(self._advance, action, steps, seen)
        self._episodes.advance(reward)
        broken = self._step_checks.broken(steps, next_obs, reward, allowed=self._restarts_broken)
        truncated = self._step_checks.cut(self._cut_short, steps)
        if self.max_steps is not None:
            truncated = truncated | (steps >= self.max_steps)
        if broken is not None:
            truncated = truncated | (broken & ~terminated)
        ended, obs = terminated | truncated, next_obs
        if bool(ended.any()):
            obs = self._step_checks.reset(self._reset_where, ended, steps, next_obs)
            self._step_checks.fresh(steps, obs)
        self._current = obs
        info = {key: told for key, told in self._report().items() if key not in RESERVED}
        self._episodes.end(ended, info)
        info |= {"final_obs": next_obs, "_final_obs": ended}
        return obs, reward, terminated, truncated, info

    @contextmanager
    def restarting_broken(self) -> Iterator[None]:
        """Truncate and reset envs whose step gives a value that is not finite, instead of raising.

        For callers that leave such envs out (`Window.finite_envs`). An env that can be reset only
        by itself raises nevertheless.
        """
        before, self._restarts_broken = self._restarts_broken, not self.resets_itself
        try:
            yield
        finally:
            self._restarts_broken = before

    def episode_report(self) -> dict[str, float]:
        """Return means over the episodes that ended since the last call.

        `episode_return`, summed over agents, and `episode_length` in steps, without first episodes
        that `randomise_episode_phase` has cut; and `info/NAME`, of the numbers that the env
        reported in the last step of each.
        """
        return self._episodes.report.take()

    @property
    def reported_episodes(self) -> dict[str, int]:
        """Over how many episodes the means of the last `episode_report` are, by name."""
        return self._episodes.report.episodes

    def state(self) -> State:
        """Return everything that determines the env's future, random state included.

        Raises:
            NotImplementedError: the simulator cannot save its state.
        """
        return {
            "current_obs": self.current_obs.detach().clone(),
            **self._episodes.state(),
            "simulator": self._save(),
        }

    def set_state(self, state: State) -> None:
        """Restore what `state` returned, without a graph.

        Raises:
            UsageError: the simulator cannot restore a state, or its numbers of envs, agents or
                features differ.
        """
        shape = tuple(state["current_obs"].shape)
        needed = (self.num_envs, self.num_agents, self.obs_dim)
        if shape != needed:
            raise UsageError(
                f"the state is of (env, agent, obs_dim) = {shape}, this env of {needed}; make the "
                "env with the arguments it had when the state was saved"
            )
        self._restore(state["simulator"])
        self._current = state["current_obs"].to(self.device, copy=True)
        self._episodes.set_state(state)

    @record_function("simulate window")
    def rollout(self, policy: Policy | WindowPolicy, horizon: int) -> Window:
        """Take `horizon` steps with `policy` from the current state, keeping every graph.

        Raises:
            UsageError: `horizon` is less than 1.
        """
        check_horizon(horizon)
        steps: list[dict[str, Tensor]] = []
        alive_mask: list[Tensor | None] = []
        for _ in range(horizon):
            obs = self.current_obs
            alive_mask.append(self._step_checks.alive_mask(self.alive_mask))
            action = self.gradient_guard.watch(self.apply_action_mask(policy(obs)))
            steps.append(step_of(obs, action, self.step(action)))
        return Window.of(steps, alive_mask)

    @property
    def can_replay(self) -> bool:
        """Whether `differentiate` works: dynamics and reward are both learned."""
        return False

    def differentiate(self, window: Window, policy: WindowPolicy) -> Window:
        """Attach a gradient to a window collected without one.

        Args:
            window: returned by `collect`, or a part of it.
            policy: recomputes the window's actions; its weights may have changed a little since.

        Raises:
            UsageError: a gradient is native, which only `rollout` can give.
        """
        raise UsageError(
            "a window can be differentiated again only where everything is learned; use rollout, "
            "or LearnedDiffWrapper(env) without dynamics=False and reward=False"
        )

    def collect(self, policy: Policy | WindowPolicy, horizon: int) -> Window:
        """Run `rollout` without a graph."""
        with torch.no_grad():
            return self.rollout(policy, horizon)

    def fit(self, data: Any) -> dict[str, float]:
        """Train the env's models on a window; a simulator has none.

        Returns:
            metrics, empty here.
        """
        return {}

    def state_dict(self) -> State:
        """Return the state of the env's models; empty for a simulator."""
        return {}

    def load_state_dict(self, state: State) -> None:
        """Restore what `state_dict` returned."""

    def randomise_episode_phase(self, generator: torch.Generator, every: int = 1) -> None:
        """Start episodes at random phases of the time limit, so that resets do not coincide.

        Only the first episodes become shorter. Does nothing without a time limit.

        Args:
            generator: on the CPU.
            every: phases are multiples of this, such as the steps of a window, so that envs are
                reset in groups: cheaper if resetting one env costs as much as resetting all.
        """
        if self.max_steps is not None:
            self._episodes.spread(self.max_steps, generator, every)

    def apply_action_mask(self, action: Tensor) -> Tensor:
        """Return continuous actions unchanged, and discrete ones as the simulator gets them.

        These are one-hot rows (env, agent, act_dim) of the argmax over the available actions, with
        the straight-through gradient.

        Raises:
            UsageError: as `check_action`, for discrete actions.
        """
        action = usable(action)
        if self.discrete_actions:
            self.check_action(action)
            return self._one_hot(action)
        return action

    def _one_hot(self, action: Tensor) -> Tensor:
        available = self.valid_action_dims  # False where padded
        if self.action_mask_slice is not None:
            available = available & available_actions(self.current_obs, self.action_mask_slice)
        return straight_through_one_hot(action.masked_fill(~available, -torch.inf), action)

    def check_action(self, action: Tensor) -> None:
        """Refuse an action of the wrong shape or dtype, or one that is not finite."""
        expect_action(action, (self.num_envs, self.num_agents, self.act_dim))


keep_outside(MultiAgentVectorEnv, _CALLED)

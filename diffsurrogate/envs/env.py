"""The env protocol: a Gymnasium vector env with an agent axis, torch tensors and gradients.

Trainers and wrappers meet here and nowhere else. Axes are `(time, env, agent, feature)`.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import gymnasium
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Tensor

from diffsurrogate.envs.action_space import clamp_to_box, expect_action
from diffsurrogate.envs.bounds import Bounds
from diffsurrogate.envs.checks import StepChecks, check_world, reset_mask
from diffsurrogate.envs.observation_slices import available_actions, check_columns
from diffsurrogate.envs.window import Window, WindowPolicy, check_horizon, step_of
from diffsurrogate.errors import UsageError
from diffsurrogate.functional.discrete_actions import straight_through_one_hot

Policy = Callable[[Tensor], Tensor]
"""Maps obs `(env, agent, obs_dim)` to actions `(env, agent, act_dim)`; may leave the action box."""
State = dict[str, Any]
"""Nested dicts, lists and tuples of tensors and plain numbers: loadable with `weights_only`."""


class MultiAgentVectorEnv(VectorEnv[Tensor, Tensor, Tensor]):
    """`num_envs` copies of a world with `num_agents` agents, stepped together as torch tensors.

    Subclasses implement `_reset_all`, `_reset_where`, `_advance` and `detach`, and, where the
    simulator allows, `state` and `set_state`. The base class checks and clamps actions, counts
    steps, cuts episodes at `max_steps` (as truncation) and resets ended envs in the same step
    (`AutoresetMode.SAME_STEP`, with `info["final_obs"]` and `info["_final_obs"]`).

    A documented extension of Gymnasium: rewards are `(env, agent)`, not `(env,)`.
    """

    metadata: dict[str, Any] = {"autoreset_mode": AutoresetMode.SAME_STEP, "render_modes": []}  # noqa: RUF012
    discrete_actions: bool = False
    """Whether an action is a choice among `act_dim`: one-hot rows in the box [0, 1]^act_dim, of
    which the simulator takes the largest entry."""
    action_mask_slice: slice | None = None
    """The act_dim columns of an observation that are 1 where a choice is open now and 0 where it is
    closed; None where all always are. A closed one never reaches the simulator: the largest open
    entry does, of equal ones the first."""
    global_state_slice: slice | None = None
    """The columns of an observation that hold the global state, the same for all agents; None
    without. Critics and models read them, policies do not (`Actor`)."""
    offers_state: bool = False
    """Whether there is a global state, which `make(..., state=True)` puts into
    `global_state_slice`."""
    resets_itself: bool = False
    """Whether the simulator starts copies anew when their episodes end, and at no other time."""

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
            num_envs: copies that step together.
            agents: one name per agent.
            observation_space: box `(agent, obs_dim)` of one copy.
            action_space: box `(agent, act_dim)` of one copy, with finite bounds.
            device: where every tensor lives.
            gradients: what the env itself can differentiate: a subset of dynamics, reward.
            max_steps: steps after which an episode is truncated; None for never.
            check_bounds: refuse observations outside of finite bounds, by more than a thousandth of
                their range.
        """
        check_world(num_envs, agents, action_space, max_steps)
        self.num_envs = num_envs
        self.agents = list(agents)
        self.num_agents = len(self.agents)
        self.device = torch.device(device)
        self.gradients = frozenset(gradients)
        """What the env itself differentiates now: a subset of {"dynamics", "reward"}."""
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
        """(agent, obs_dim) bool: False where an agent's observation is only padding."""
        self.valid_action_dims = torch.ones(
            action_space.shape, dtype=torch.bool, device=self.device
        )
        """(agent, act_dim) bool: False where an agent's action is only padding."""
        self.max_horizon: int | None = None
        """Longest window whose gradient the env can give; None for any."""
        self._current: Tensor | None = None
        bounds = Bounds.of(observation_space, self.device) if check_bounds else None
        shape = (num_envs, self.num_agents, self.obs_dim)
        self._step_checks = StepChecks(type(self).__name__, self.agents, shape, bounds)
        self._steps = torch.zeros(num_envs, dtype=torch.long, device=self.device)
        self._episode_start = torch.ones(num_envs, dtype=torch.bool, device=self.device)

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
        """(env, agent, obs_dim): what the policy would see now, with its graph if there is one."""
        if self._current is None:
            raise UsageError("the env was not reset; call env.reset() before stepping it")
        return self._current

    @property
    def episode_start(self) -> Tensor:
        """(env,) bool: `current_obs` is the first of its episode, and memory of others is void."""
        return self._episode_start

    @property
    def alive_mask(self) -> Tensor | None:
        """(env, agent) bool: who is there to act on `current_obs`; None where all are."""
        return None

    @property
    def native_gradients(self) -> frozenset[str]:
        """What the simulator could differentiate: a subset of {"dynamics", "reward"}."""
        return self.gradients

    # --- what a simulator must provide -------------------------------------------------------

    def _reset_all(self, seed: int | None) -> Tensor:
        """Start every env anew and return obs `(env, agent, obs_dim)`."""
        raise NotImplementedError

    def _reset_where(self, mask: Tensor) -> Tensor:
        """Start anew the envs where `mask` (env,) is set; return obs of all, others unchanged."""
        raise NotImplementedError

    def _advance(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Step with an action in the box: obs, reward `(env, agent)`, terminated `(env,)`."""
        raise NotImplementedError

    def _cut_short(self) -> Tensor:
        """Return which envs the simulator itself truncated in the last `_advance`: (env,) bool.

        None, unless overridden; `max_steps` is counted by the base class.
        """
        return torch.zeros(self.num_envs, dtype=torch.bool, device=self.device)

    def detach(self) -> None:
        """Cut the graph everywhere the env keeps one; the simulation goes on unchanged."""
        raise NotImplementedError

    def enable_gradients(self, *kinds: str) -> None:
        """Turn on the env's own gradients from the next reset or `detach()` on.

        Raises:
            UsageError: the env does not have the gradients asked for.
        """
        missing = sorted(set(kinds) - self.gradients)
        if missing:
            raise UsageError(
                f"{type(self).__name__} has no {' and no '.join(missing)} gradient of its own; "
                "leave it to LearnedDiffWrapper to learn one"
            )

    def disable_gradients(self) -> None:
        """Turn the env's own gradients off, where that makes it faster."""

    def max_return(self) -> Tensor | None:
        """Return the largest return (env,) from the last reset on, over all agents, if known."""
        return None

    def _save(self) -> State:
        """Return the simulator's own state, random state included."""
        raise NotImplementedError(f"{type(self).__name__} cannot save its state: give it _save")

    def _restore(self, state: State) -> None:
        """Put the simulator back where `_save` was called."""
        raise NotImplementedError(f"{type(self).__name__} cannot restore: give it _restore")

    # --- what trainers and users call ----------------------------------------------------------

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Tensor, dict[str, Any]]:
        """Start every env anew, or some.

        Args:
            seed: of the env's randomness from now on; None goes on with what there is.
            options: {"reset_mask": (env,) bool} starts anew those only; others go on.

        Returns:
            obs `(env, agent, obs_dim)` float32 and an empty info.

        Raises:
            UsageError: `action_mask_slice` or `global_state_slice` are no such columns, the mask
                does not fit or comes with a seed, or the simulator starts copies anew only by
                itself.
        """
        mask = reset_mask(options, self.num_envs, seed)
        if mask is not None:
            return self._start_some(mask.to(self.device)), {}
        roles = self.action_mask_slice, self.global_state_slice
        check_columns(
            *roles, obs_dim=self.obs_dim, act_dim=self.act_dim, discrete=self.discrete_actions
        )
        self._current = self._step_checks.reset(self._reset_all, seed)
        self._steps, self._episode_start = (
            torch.zeros_like(self._steps),
            torch.ones_like(self._episode_start),
        )
        return self._current, {}

    def _start_some(self, mask: Tensor) -> Tensor:
        """Start anew the envs where `mask` (env,) is set, wherever they are in their episodes."""
        if self.resets_itself:
            raise UsageError(
                f"{type(self).__name__} starts an env anew only when its episode ends; leave out "
                'options={"reset_mask": ...}'
            )
        before = self.current_obs
        obs = self._step_checks.reset(self._reset_where, mask, self._steps, before)
        obs = torch.where(mask[:, None, None], obs, before)
        self._step_checks.fresh(self._steps, obs)
        self._steps = torch.where(mask, 0, self._steps)
        self._current, self._episode_start = obs, self._episode_start | mask
        return obs

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Any]]:
        """Advance every env one step and reset those that ended.

        Args:
            actions: (env, agent, act_dim) float; clamped to the box, or the largest choice taken.

        Returns:
            obs `(env, agent, obs_dim)`, reward `(env, agent)`, terminated and truncated `(env,)`
            bool, and info with `final_obs` (env, agent, obs_dim), the observation before the
            reset, and `_final_obs` (env,), True where there was one.

        Raises:
            UsageError: the action, or what the simulator returns, has a wrong shape or dtype or is
                not finite; or the env was never reset.
        """
        seen = self.current_obs
        self.check_action(actions)
        box = self.action_low, self.action_high
        action = self._chosen(actions) if self.discrete_actions else clamp_to_box(actions, *box)
        steps = self._steps + 1
        next_obs, reward, terminated = self._step_checks.step(self._advance, action, steps, seen)
        self._steps = steps
        truncated = self._step_checks.cut(self._cut_short, steps)
        if self.max_steps is not None:
            truncated = truncated | (steps >= self.max_steps)
        ended, obs = terminated | truncated, next_obs
        if bool(ended.any()):
            obs = self._step_checks.reset(self._reset_where, ended, steps, next_obs)
            self._steps = torch.where(ended, 0, steps)
        self._step_checks.finite(steps, next_obs, reward, obs)
        self._current, self._episode_start = obs, ended
        return obs, reward, terminated, truncated, {"final_obs": next_obs, "_final_obs": ended}

    def state(self) -> State:
        """Return all that decides the env's future, random state included.

        Raises:
            NotImplementedError: the simulator cannot save its state.
        """
        return {
            "current_obs": self.current_obs.detach().clone(),
            "steps": self._steps.clone(),
            "began": self._episode_start.clone(),
            "simulator": self._save(),
        }

    def set_state(self, state: State) -> None:
        """Continue exactly where `state` was taken, without a graph.

        Raises:
            UsageError: the simulator cannot restore a state, or it is of another number of envs,
                agents or features.
        """
        shape = tuple(state["current_obs"].shape)
        needed = (self.num_envs, self.num_agents, self.obs_dim)
        if shape != needed:
            raise UsageError(
                f"the state is of (env, agent, obs_dim) = {shape}, this env of {needed}; make the "
                "env as it was when the state was taken"
            )
        self._restore(state["simulator"])
        self._current = state["current_obs"].to(self.device, copy=True)
        self._steps = state["steps"].to(self.device, copy=True)
        self._episode_start = state["began"].to(self.device, copy=True)

    def rollout(self, policy: Policy | WindowPolicy, horizon: int) -> Window:
        """Step `horizon` times with `policy` from where the env stands, keeping every graph.

        Raises:
            UsageError: `horizon` is less than 1.
        """
        check_horizon(horizon)
        steps: list[dict[str, Tensor]] = []
        alive_mask: list[Tensor | None] = []
        for _ in range(horizon):
            obs = self.current_obs
            alive_mask.append(self._step_checks.alive_mask(self.alive_mask))
            action = self.apply_action_mask(policy(obs))
            steps.append(step_of(obs, action, self.step(action)))
        return Window.of(steps, alive_mask)

    @property
    def can_replay(self) -> bool:
        """Whether `differentiate` works: everything is learned, no graph of a simulator needed."""
        return False

    def differentiate(self, window: Window, policy: WindowPolicy) -> Window:
        """Attach a gradient to a window collected without one.

        Args:
            window: what `collect` gave, or a part of it.
            policy: runs the steps of the window again; its weights may have moved a little.

        Raises:
            UsageError: a gradient is the simulator's own, which only `rollout` can give.
        """
        raise UsageError(
            "a window can be differentiated again only where everything is learned; use rollout, "
            "or LearnedDiffWrapper(env) without dynamics=False, reward=False and mix"
        )

    def collect(self, policy: Policy | WindowPolicy, horizon: int) -> Window:
        """Step as `rollout` does, without any graph."""
        with torch.no_grad():
            return self.rollout(policy, horizon)

    def fit(self, data: Any) -> dict[str, float]:
        """Learn from a window; a real env has nothing to learn.

        Returns:
            metrics, empty here.
        """
        return {}

    def state_dict(self) -> State:
        """Return what the env has learned; a real env has learned nothing."""
        return {}

    def load_state_dict(self, state: State) -> None:
        """Take back what `state_dict` returned."""

    def randomise_episode_phase(self, generator: torch.Generator, every: int = 1) -> None:
        """Spread the envs' step counters evenly at random, so that time limits do not coincide.

        The first episodes are shorter; nothing else changes. Without a time limit, does nothing.

        Args:
            generator: on the CPU.
            every: counters are multiples of this, such as the steps of a window: envs are then
                reset in groups, which is cheaper where a reset costs as much for one as for all.
        """
        if self.max_steps is not None:
            phases = -(-self.max_steps // every)
            steps = every * torch.randint(phases, (self.num_envs,), generator=generator)
            self._steps = steps.to(self.device)

    def apply_action_mask(self, action: Tensor) -> Tensor:
        """Return the action, or where actions are choices what the simulator is given.

        One-hot rows (env, agent, act_dim) of the largest entries among the choices that agents have
        and that are open now, with the gradient of the action. Raises as `check_action`.
        """
        if self.discrete_actions:
            self.check_action(action)
            return self._chosen(action)
        return action

    def _chosen(self, action: Tensor) -> Tensor:
        possible = self.valid_action_dims  # of choices that agents have
        if self.action_mask_slice is not None:
            possible = possible & available_actions(self.current_obs, self.action_mask_slice)
        return straight_through_one_hot(action.masked_fill(~possible, -torch.inf), action)

    def check_action(self, action: Tensor) -> None:
        """Refuse an action of the wrong shape or dtype, or one that is not finite."""
        expect_action(action, (self.num_envs, self.num_agents, self.act_dim))

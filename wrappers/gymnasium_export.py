"""Our envs as standard NumPy vector envs of Gymnasium; `gymnasium.py` goes the other way."""

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray
from torch import Tensor

from diffsurrogate.columns import box_without, without
from diffsurrogate.env import MultiAgentVectorEnv
from diffsurrogate.errors import UsageError
from diffsurrogate.registry import as_multi_agent

Array = NDArray[Any]


class GymnasiumVectorEnv(VectorEnv[Array, Array, Array]):
    """One of our envs as a standard `gymnasium.vector.VectorEnv`: NumPy, one reward per env.

    To single-agent tools the team is one agent: it sees what all agents see, one after another,
    acts for all of them and earns the sum of their rewards. Numbers are the env's own; rewards
    become float64 as in Gymnasium's vector envs, after `TeamReward`'s float32 sum.

    The global state (`state_columns`) is left out. Which choices are open (`open_choices`) stays
    among the observations; for a closed one the env takes the first that is open.

    Actions are a `Box`, or, where the env has `discrete_actions`, `Discrete` for one agent and
    `MultiDiscrete` for several.

    Ended envs are reset in the same step, and info has `final_obs`, `final_info` (empty) and their
    masks exactly as of Gymnasium's `SyncVectorEnv` with `AutoresetMode.SAME_STEP`. All of
    Gymnasium's vector wrappers that take that mode work. Its observation wrappers, such as
    `NormalizeObservation`, refuse it for any env, since they would leave `final_obs` as it is;
    `NumpyToTorch` and `ArrayConversion` fail on its `final_obs` of objects: for these, give
    `final_obs="array"`.

    Example:
        >>> from gymnasium.wrappers.vector import RecordEpisodeStatistics
        >>> from diffsurrogate import make
        >>> from diffsurrogate.wrappers.gymnasium_export import as_gymnasium
        >>> envs = as_gymnasium(make("diffsurrogate/cartpole-swingup", num_envs=4))
        >>> envs = RecordEpisodeStatistics(envs)
        >>> obs, info = envs.reset(seed=0)
        >>> obs, reward, terminated, truncated, info = envs.step(envs.action_space.sample())
        >>> reward.shape
        (4,)
    """

    def __init__(
        self,
        env: MultiAgentVectorEnv,
        *,
        reward: str = "sum",
        flatten: bool = True,
        final_obs: str = "objects",
    ) -> None:
        """Take over `env`, which must not be stepped by others from now on; see `as_gymnasium`."""
        for name, given, known in [
            ("reward", reward, ("sum", "mean")),
            ("final_obs", final_obs, ("objects", "array")),
        ]:
            if given not in known:
                raise UsageError(f"{name} is {given!r}; give {known[0]!r} or {known[1]!r}")
        self.env = env
        self.num_envs = env.num_envs
        self.metadata = env.metadata | {"autoreset_mode": AutoresetMode.SAME_STEP}
        self.render_mode, self.spec = env.render_mode, env.spec
        seen: Any = env.single_observation_space
        self.single_observation_space = _box(box_without(seen, env.state_columns), flatten)
        self.single_action_space = _action_space(env, flatten)
        self.observation_space = batch_space(self.single_observation_space, env.num_envs)
        self.action_space = batch_space(self.single_action_space, env.num_envs)
        self._reward, self._final_obs = reward, final_obs

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Start every env anew.

        Args:
            seed: one for all envs together.
            options: passed on to the env.

        Returns:
            obs `(env, features)` float32, or `(env, agent, obs_dim)` if not flattened, and an empty
            info.

        Raises:
            UsageError: `options` ask for a reset of some envs only.
        """
        if options and "reset_mask" in options:
            raise UsageError(
                'options={"reset_mask": ...} asks for a reset of some envs only; ended envs are '
                "reset in the same step already, so leave it out to reset all of them"
            )
        super().reset(seed=seed)
        with torch.no_grad():
            obs, _ = self.env.reset(seed=seed, options=options)
        return self._observation(obs), {}

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """Advance every env one step and reset those that ended.

        Args:
            actions: of `action_space`; numbers outside of its box are clamped.

        Returns:
            obs `(env, features)` float32, or `(env, agent, obs_dim)` if not flattened, reward
            `(env,)` float64, terminated and truncated `(env,)` bool, and info, empty unless an
            episode ended.

        Raises:
            UsageError: the actions have another shape, are not finite or not among the choices.
        """
        action = self._action(actions)
        with torch.no_grad():
            obs, reward, terminated, truncated, info = self.env.step(action)
        team = reward.sum(-1) if self._reward == "sum" else reward.mean(-1)
        return (
            self._observation(obs),
            team.cpu().numpy().astype(np.float64),
            terminated.cpu().numpy().copy(),
            truncated.cpu().numpy().copy(),
            self._info(info["final_obs"], (terminated | truncated).cpu().numpy().copy()),
        )

    def render(self) -> tuple[NDArray[np.uint8], ...]:
        """Draw every env, one frame `(height, width, 3)` each."""
        frames: Any = self.env.render()
        return tuple(frames)

    def close_extras(self, **kwargs: Any) -> None:
        """Close the env."""
        self.env.close(**kwargs)

    def _observation(self, obs: Tensor) -> NDArray[np.float32]:
        """Return obs `(env, agent, obs_dim)` as a new array of `observation_space`."""
        shape = self.observation_space.shape
        return without(obs, self.env.state_columns).detach().cpu().numpy().reshape(shape).copy()

    def _info(self, final: Tensor, ended: NDArray[np.bool_]) -> dict[str, Any]:
        """Return how episodes ended, as Gymnasium's vector envs do."""
        if not ended.any():
            return {}
        rows: Array = self._observation(final)
        if self._final_obs == "objects":
            objects = np.full(self.num_envs, None, dtype=object)
            for index in np.flatnonzero(ended):
                objects[index] = rows[index]
            rows = objects
        masks = {"_final_obs": ended, "_final_info": ended.copy()}
        return {"final_obs": rows, "final_info": {}} | masks

    def _action(self, actions: Array) -> Tensor:
        """Return actions `(env, agent, act_dim)` float32 of what a tool gave."""
        env = self.env
        given, needed = np.asarray(actions), self.action_space.shape
        if given.shape != needed:
            raise UsageError(
                f"actions have the shape {given.shape}; {needed} is needed, as of action_space"
            )
        if not env.discrete_actions:
            action = torch.tensor(given, dtype=torch.float32, device=env.device)
            return action.view(env.num_envs, env.num_agents, env.act_dim)
        with np.errstate(invalid="ignore"):  # NaN is no choice, as the next line finds
            choices = given.astype(np.int64)
        if not (np.array_equal(choices, given) and self.action_space.contains(choices)):
            raise UsageError(
                f"discrete actions are {given.tolist()}; whole numbers of "
                f"{self.single_action_space} are needed, counted from 0"
            )
        rows = torch.as_tensor(choices, device=env.device).view(-1, env.num_agents)
        one_hot = torch.nn.functional.one_hot(rows, env.act_dim)
        return one_hot.to(torch.float32)


def as_gymnasium(
    env: Any,
    *,
    reward: str = "sum",
    flatten: bool = True,
    final_obs: str = "objects",
) -> GymnasiumVectorEnv:
    """Turn one of our envs into a standard NumPy `gymnasium.vector.VectorEnv`.

    Args:
        env: one of ours, or anything `as_multi_agent` knows; not to be stepped by others from now.
        reward: of the team: "sum" over agents, as of `TeamReward`, or their "mean".
        flatten: observations `(agent * obs_dim,)` and actions `(agent * act_dim,)`, as single-agent
            tools want them; False keeps `(agent, obs_dim)` and `(agent, act_dim)`.
        final_obs: what `info["final_obs"]` is: an array of "objects", as Gymnasium has it, None
            where no episode ended; or one float32 "array", where those rows are the current
            observations.

    Raises:
        UsageError: `env` is none of these, or an option is not known.
    """
    return GymnasiumVectorEnv(
        as_multi_agent(env), reward=reward, flatten=flatten, final_obs=final_obs
    )


def _box(space: Any, flatten: bool) -> spaces.Box:
    assert isinstance(space, spaces.Box)
    low, high = (space.low.flatten(), space.high.flatten()) if flatten else (space.low, space.high)
    return spaces.Box(low, high, dtype=np.float32)


def _action_space(
    env: MultiAgentVectorEnv, flatten: bool
) -> spaces.Box | spaces.Discrete | spaces.MultiDiscrete:
    if not env.discrete_actions:
        return _box(env.single_action_space, flatten)
    choices = env.action_mask.sum(-1).tolist()  # without padding, which comes last
    if flatten and env.num_agents == 1:
        return spaces.Discrete(choices[0])
    return spaces.MultiDiscrete(choices)

"""Our envs as standard NumPy vector envs of Gymnasium; `gymnasium.py` goes the other way."""

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray
from torch import Tensor

from diffsurrogate.config import require_choice
from diffsurrogate.envs.checks import reset_mask
from diffsurrogate.envs.env import MultiAgentVectorEnv
from diffsurrogate.envs.observation_slices import box_without, without
from diffsurrogate.envs.registry import as_multi_agent
from diffsurrogate.errors import UsageError

Array = NDArray[Any]


class GymnasiumVectorEnv(VectorEnv[Array, Array, Array]):
    """One of our envs as a standard `gymnasium.vector.VectorEnv`: NumPy, one reward per env.

    To single-agent tools the team is one agent: it sees what all agents see, one after another,
    acts for all of them and earns the sum of their rewards. Numbers are the env's own; rewards
    become float64 as in Gymnasium's vector envs, after `TeamReward`'s float32 sum.

    The global state (`global_state_slice`) is left out. Which choices are open
    (`action_mask_slice`) stays among the observations; for a closed one the env takes the first
    that is open.

    Actions are a `Box`, or, where the env has `discrete_actions`, `Discrete` for one agent and
    `MultiDiscrete` for several.

    **Ends.** By default ended envs are reset in the same step, and info has `final_obs`,
    `final_info` (empty) and their masks exactly as of Gymnasium's `SyncVectorEnv` with
    `AutoresetMode.SAME_STEP`. `NumpyToTorch` and `ArrayConversion` fail on its `final_obs` of
    objects: for these, give `final_obs="array"`. Gymnasium's observation wrappers, such as
    `NormalizeObservation`, refuse that mode for any env: for these, give `autoreset="next_step"`.
    An ended env then shows where it ended, and its next step is a reset: it ignores the action,
    earns nothing and returns the first observation of the new episode (`AutoresetMode.NEXT_STEP`).

    `reset(options={"reset_mask": mask})` resets some envs, wherever they are.

    Example:
        >>> from gymnasium.wrappers.vector import RecordEpisodeStatistics
        >>> from diffsurrogate import make

        >>> envs = as_gymnasium(make("diffsurrogate/cartpole-swingup", num_envs=4))
        >>> envs = RecordEpisodeStatistics(envs)
        >>> obs, info = envs.reset(seed=0)
        >>> obs, reward, terminated, truncated, info = envs.step(envs.action_space.sample())
        >>> reward.shape
        (4,)
    """

    def __init__(
        self,
        env: Any,
        *,
        reward: str = "sum",
        flatten: bool = True,
        final_obs: str = "objects",
        autoreset: str = "same_step",
    ) -> None:
        """Take over `env`.

        Args:
            env: one of ours, or anything `as_multi_agent` knows; not to be stepped by others from
                now on.
            reward: of the team: "sum" over agents, as of `TeamReward`, or their "mean".
            flatten: observations `(agent * obs_dim,)` and actions `(agent * act_dim,)`, as
                single-agent tools want them; False keeps `(agent, obs_dim)` and `(agent, act_dim)`.
            final_obs: what `info["final_obs"]` is: an array of "objects", as Gymnasium has it, None
                where no episode ended; or one float32 "array", where those rows are the current
                observations.
            autoreset: an ended env is reset in the "same_step", or in the "next_step", as
                Gymnasium's observation wrappers need it.

        Raises:
            UsageError: `env` is none of these, an option is not known, or the env cannot be reset
                but by itself, and not in the next step.
        """
        require_choice("reward", reward, ("sum", "mean"))
        require_choice("final_obs", final_obs, ("objects", "array"))
        require_choice("autoreset", autoreset, ("same_step", "next_step"))
        self.env: MultiAgentVectorEnv = as_multi_agent(env)
        env = self.env
        self.num_envs = env.num_envs
        self._waits = autoreset == "next_step"
        if self._waits and env.resets_itself:
            raise UsageError(
                'autoreset="next_step" needs an env that can be reset at any time, and this one '
                'resets itself when an episode ends; leave autoreset at "same_step"'
            )
        mode = AutoresetMode.NEXT_STEP if self._waits else AutoresetMode.SAME_STEP
        self.metadata = env.metadata | {"autoreset_mode": mode}
        self.render_mode, self.spec = env.render_mode, env.spec
        seen: Any = env.single_observation_space
        self.single_observation_space = _box(box_without(seen, env.global_state_slice), flatten)
        self.single_action_space = _action_space(env, flatten)
        self.observation_space = batch_space(self.single_observation_space, env.num_envs)
        self.action_space = batch_space(self.single_action_space, env.num_envs)
        self._reward, self._final_obs = reward, final_obs
        self._over = torch.zeros(env.num_envs, dtype=torch.bool, device=env.device)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Reset every env, or some.

        Args:
            seed: one for all envs together.
            options: {"reset_mask": (env,) bool} resets only those.

        Returns:
            obs `(env, features)` float32, or `(env, agent, obs_dim)` if not flattened, and an empty
            info.

        Raises:
            UsageError: the mask does not fit, comes with a seed, or leaves out an env that waits
                for its reset; or the env cannot be reset but by itself.
        """
        super().reset(seed=seed)
        mask = reset_mask(options, self.num_envs, seed)
        if mask is not None and bool((self._over & ~mask.to(self._over.device)).any()):
            raise UsageError(
                f"the envs {self._over.nonzero().flatten().tolist()} ended in the last step and "
                "wait for their reset; set reset_mask for them too, or step first"
            )
        with torch.no_grad():
            obs, _ = self.env.reset(seed=seed, options=options)
        self._over = torch.zeros_like(self._over)
        return self._observation(obs), {}

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """Advance every env one step and reset those that ended.

        Args:
            actions: of `action_space`; numbers outside of its box are clamped.

        Returns:
            obs `(env, features)` float32, or `(env, agent, obs_dim)` if not flattened, reward
            `(env,)` float64, terminated and truncated `(env,)` bool, and info, empty unless an
            episode ended; always empty with `autoreset="next_step"`.

        Raises:
            UsageError: the actions have another shape, are not finite or not among the choices.
        """
        action = self._action(actions)
        with torch.no_grad():
            obs, reward, terminated, truncated, info = self.env.step(action)
            final = info["final_obs"]
            if self._waits:
                obs, reward, terminated, truncated = self._postponed(
                    obs, reward, terminated, truncated, final
                )
        team = reward.sum(-1) if self._reward == "sum" else reward.mean(-1)
        return (
            self._observation(obs),
            team.cpu().numpy().astype(np.float64),
            terminated.cpu().numpy().copy(),
            truncated.cpu().numpy().copy(),
            {} if self._waits else self._info(final, terminated | truncated),
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
        return (
            without(obs, self.env.global_state_slice).detach().cpu().numpy().reshape(shape).copy()
        )

    def _postponed(
        self, obs: Tensor, reward: Tensor, terminated: Tensor, truncated: Tensor, final: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return a step as it is where resets take a separate step.

        The env has reset those that ended already; it resets them once more when their turn comes.
        """
        over = self._over
        if bool(over.any()):
            obs, _ = self.env.reset(options={"reset_mask": over})
        reward = reward.masked_fill(over.unsqueeze(1), 0)
        terminated, truncated = terminated & ~over, truncated & ~over
        self._over = terminated | truncated
        obs = torch.where(self._over[:, None, None], final, obs)
        return obs, reward, terminated, truncated

    def _info(self, final: Tensor, over: Tensor) -> dict[str, Any]:
        """Return how episodes ended, as Gymnasium's vector envs do."""
        ended = over.cpu().numpy().copy()
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


as_gymnasium = GymnasiumVectorEnv


def _box(space: Any, flatten: bool) -> spaces.Box:
    assert isinstance(space, spaces.Box)
    low, high = (space.low.flatten(), space.high.flatten()) if flatten else (space.low, space.high)
    return spaces.Box(low, high, dtype=np.float32)


def _action_space(
    env: MultiAgentVectorEnv, flatten: bool
) -> spaces.Box | spaces.Discrete | spaces.MultiDiscrete:
    if not env.discrete_actions:
        return _box(env.single_action_space, flatten)
    choices = env.valid_action_dims.sum(-1).tolist()  # without padding, which comes last
    if flatten and env.num_agents == 1:
        return spaces.Discrete(choices[0])
    return spaces.MultiDiscrete(choices)

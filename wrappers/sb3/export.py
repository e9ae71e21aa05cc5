"""Our envs for Stable-Baselines3: any of its algorithms trains a policy shared by all agents.

Stable-Baselines3 is imported here only; install it as the extra `sb3`.
"""

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from diffsurrogate.envs.env import MultiAgentVectorEnv, Policy
from diffsurrogate.envs.episodes import RESERVED
from diffsurrogate.envs.observation_slices import box_without, without
from diffsurrogate.envs.registry import as_multi_agent
from diffsurrogate.errors import UsageError

try:
    with contextlib.redirect_stderr(io.StringIO()):  # legacy gym, where installed, prints an advert
        from stable_baselines3.common.base_class import BaseAlgorithm
        from stable_baselines3.common.vec_env import VecEnv
        from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvStepReturn
except ImportError as error:
    raise UsageError(
        "training with Stable-Baselines3 needs it installed, an optional extra: "
        f'pip install "diffsurrogate[sb3]" ({error})'
    ) from error


class SB3VecEnv(VecEnv):
    """One of our envs as a Stable-Baselines3 `VecEnv`, NumPy in and out.

    A slot is one agent of one env, env by env: slot = env * num_agents + agent. So the policy is
    shared by all agents, each with its own observation and reward. With `joint=True` a slot is one
    env: one policy sees all observations, gives all actions and earns the sum of the rewards.

    Policies see no global state (`global_state_slice`); which choices are open
    (`action_mask_slice`) is among their observations, and for a closed one the env takes the first
    that is open.

    All agents of an env end together; info then has `terminal_observation`, and always
    `TimeLimit.truncated`. Actions are `Box`, or `Discrete(act_dim)` where the env has
    `discrete_actions` (`MultiDiscrete` if joint).

    Example:
        >>> from stable_baselines3 import PPO
        >>> from diffsurrogate import evaluate, make

        >>> env = make("diffsurrogate/cartpole-swingup", num_envs=4)
        >>> model = PPO("MlpPolicy", SB3VecEnv(env)).learn(100_000)  # doctest: +SKIP
        >>> evaluate(as_policy(model, env), env).mean_return  # doctest: +SKIP
    """

    env: MultiAgentVectorEnv

    def __init__(self, env: Any, *, joint: bool = False) -> None:
        """Take over `env`, which must not be stepped by others from now on.

        Args:
            env: one of ours, or anything `as_multi_agent` knows.
            joint: one slot per env instead of one per agent.

        Raises:
            UsageError: `env` is none of these, or its agents differ in their action boxes, so that
                they cannot share a policy.
        """
        self.env = env = as_multi_agent(env)
        self.joint = joint and env.num_agents > 1
        """Whether a slot is a whole env; with one agent there is no difference."""
        self._actions: NDArray[Any] | None = None
        slots = env.num_envs if self.joint else env.num_envs * env.num_agents
        super().__init__(slots, _observation_space(env, self.joint), _action_space(env, self.joint))

    def reset(self) -> NDArray[np.float32]:
        """Reset every env, with what `seed(...)` and `set_options(...)` gave since the last reset.

        Returns:
            obs (slot, features) float32.

        Raises:
            UsageError: the env does not take the options, or they differ from slot to slot.
        """
        options = self._options[0] or None
        if any((other or None) != options for other in self._options):
            raise UsageError(
                f"set_options got {self._options}; slots share a reset, so give one dict for all"
            )
        obs, _ = self.env.reset(seed=self._seeds[0], options=options)
        self._reset_seeds()
        self._reset_options()
        return slot_rows(self.env, obs, self.joint)

    def step_async(self, actions: NDArray[Any]) -> None:
        """Keep the actions for `step_wait`.

        Args:
            actions: (slot, act_dim) float, or (slot,) choices; all agents' if joint.
        """
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Step with the actions given to `step_async`.

        Returns:
            obs (slot, features) float32, reward (slot,) float32, done (slot,) bool, and one info
            per slot.

        Raises:
            UsageError: `step_async` was not called, or the actions do not fit.
        """
        if self._actions is None:
            raise UsageError("there are no actions; call step(actions), or step_async first")
        action, self._actions = to_actions(self._actions, self.env), None
        with torch.no_grad():
            obs, reward, terminated, truncated, info = self.env.step(action)
        final = slot_rows(self.env, info["final_obs"], self.joint)
        rewards = (reward.sum(1) if self.joint else reward.flatten()).cpu().numpy().copy()
        dones = self._per_slot(terminated | truncated)
        cuts = self._per_slot(truncated & ~terminated).tolist()
        infos: list[dict[str, Any]] = [{"TimeLimit.truncated": cut} for cut in cuts]
        for name, told in info.items():
            if name not in RESERVED:
                values = self._per_slot(told)
                for place in np.flatnonzero(~np.isnan(values)).tolist():
                    infos[place][name] = float(values[place])
        for slot in np.flatnonzero(dones):
            infos[slot]["terminal_observation"] = final[slot]
        return slot_rows(self.env, obs, self.joint), rewards, dones, infos

    def close(self) -> None:
        """Close the env."""
        self.env.close()

    def get_images(self) -> Sequence[NDArray[np.uint8] | None]:
        """Draw the envs: one frame per env, not per slot."""
        frames: Any = self.env.render()
        return list(frames)

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Return an attribute of the one env behind all slots, once per slot asked for."""
        return [getattr(self.env, attr_name)] * len(list(self._get_indices(indices)))

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute of the one env behind all slots, whichever `indices` are given."""
        setattr(self.env, attr_name, value)

    def env_method(
        self,
        method_name: str,
        *method_args: Any,
        indices: VecEnvIndices = None,
        **method_kwargs: Any,
    ) -> list[Any]:
        """Call a method of the one env behind all slots, once; return it per slot asked for."""
        result = getattr(self.env, method_name)(*method_args, **method_kwargs)
        return [result] * len(list(self._get_indices(indices)))

    def env_is_wrapped(
        self, wrapper_class: type[gymnasium.Wrapper[Any, Any, Any, Any]], indices: Any = None
    ) -> list[bool]:
        """Return False per slot asked for: no slot is a `gymnasium.Env` that could be wrapped."""
        return [False] * len(list(self._get_indices(indices)))

    def _per_slot(self, flags: Tensor) -> NDArray[Any]:
        """Return one value per env (env,) as (slot,)."""
        repeated = flags if self.joint else flags.repeat_interleave(self.env.num_agents)
        return repeated.cpu().numpy().copy()


def as_policy(model: BaseAlgorithm, env: MultiAgentVectorEnv) -> Policy:
    """Return the deterministic policy of a model trained on an `SB3VecEnv`, joint or not.

    Observations are normalised as in training, if the model's env is a `VecNormalize`.

    Args:
        model: any algorithm of Stable-Baselines3 without a recurrent state.
        env: where the policy is to act, such as an env of another size for `evaluate`.

    Returns:
        a function of obs (env, agent, obs_dim) to actions (env, agent, act_dim).

    Raises:
        UsageError: the model was trained on other observations or actions than the env's.
    """
    fitting = [
        joint
        for joint in (False, True)
        if model.observation_space.shape == _observation_space(env, joint).shape
        and _size(model.action_space) == _size(_action_space(env, joint))
    ]
    if not fitting:
        raise UsageError(
            f"the model maps {model.observation_space} to {model.action_space}; the env has "
            f"{env.num_agents} agents with {env.obs_dim} features and actions of {env.act_dim}; "
            "give an env of the kind that the model was trained on"
        )
    joint = fitting[0]
    normaliser = model.get_vec_normalize_env()

    def act(obs: Tensor) -> Tensor:
        rows: Any = slot_rows(env, obs, joint)
        if normaliser is not None:
            rows = normaliser.normalize_obs(rows)
        chosen, _ = model.predict(rows, deterministic=True)
        return to_actions(chosen, env)

    return act


def to_actions(rows: NDArray[Any], env: MultiAgentVectorEnv) -> Tensor:
    """Return actions (any, agent, act_dim) float32 of what Stable-Baselines3 gave.

    Args:
        rows: (slot, act_dim) float, or (slot,) choices, the slots env by env; all agents' if joint.
        env: the env that takes the actions.

    Raises:
        UsageError: a choice is out of range, or the rows do not make up whole envs.
    """
    per_env = env.num_agents * (1 if env.discrete_actions else env.act_dim)
    if rows.size % per_env:
        raise UsageError(
            f"actions have the shape {rows.shape}; the {env.num_agents} agents of every env need "
            f"{per_env} numbers"
        )
    if not env.discrete_actions:
        action = torch.as_tensor(rows, dtype=torch.float32, device=env.device)
        return action.reshape(-1, env.num_agents, env.act_dim)
    choices = torch.as_tensor(rows, dtype=torch.long, device=env.device)
    if bool(((choices < 0) | (choices >= env.act_dim)).any()):
        raise UsageError(
            f"a discrete action is out of range: {rows.tolist()}; give 0 to {env.act_dim - 1}"
        )
    one_hot = torch.nn.functional.one_hot(choices.reshape(-1, env.num_agents), env.act_dim)
    return one_hot.to(torch.float32)


def slot_rows(env: MultiAgentVectorEnv, obs: Tensor, joint: bool) -> NDArray[np.float32]:
    """Return obs `(env, agent, obs_dim)` as a new `(slot, features)`, without the global state."""
    obs = without(obs, env.global_state_slice)
    rows = obs.flatten(1) if joint else obs.flatten(0, 1)
    return rows.detach().cpu().numpy().copy()


def _observation_space(env: MultiAgentVectorEnv, joint: bool) -> spaces.Box:
    box = env.single_observation_space
    assert isinstance(box, spaces.Box)
    box = box_without(box, env.global_state_slice)
    if joint:
        return spaces.Box(box.low.flatten(), box.high.flatten(), dtype=np.float32)
    return spaces.Box(box.low.min(0), box.high.max(0), dtype=np.float32)


def _action_space(
    env: MultiAgentVectorEnv, joint: bool
) -> spaces.Box | spaces.Discrete | spaces.MultiDiscrete:
    if env.discrete_actions:
        choices = [env.act_dim] * env.num_agents
        return spaces.MultiDiscrete(choices) if joint else spaces.Discrete(env.act_dim)
    box = env.single_action_space
    assert isinstance(box, spaces.Box)
    if joint:
        return spaces.Box(box.low.flatten(), box.high.flatten(), dtype=np.float32)
    if (box.low != box.low[0]).any() or (box.high != box.high[0]).any():
        raise UsageError(
            f"the agents {', '.join(env.agents)} differ in their action boxes, so they cannot "
            "share a policy; use joint=True, or rescale the actions in your env"
        )
    return spaces.Box(box.low[0], box.high[0], dtype=np.float32)


def _size(space: spaces.Space[Any]) -> tuple[Any, ...]:
    """Return what makes two action spaces exchangeable."""
    if isinstance(space, spaces.Discrete):
        return ("choice", int(space.n))
    if isinstance(space, spaces.MultiDiscrete):
        return ("choices", *space.nvec.tolist())
    return ("numbers", space.shape)

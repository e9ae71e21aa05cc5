"""Earlier observations and actions beside the current one, where one observation is too little."""

from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box
from torch import Tensor

from diffsurrogate.config import require_whole
from diffsurrogate.envs.action_space import ActionSpace
from diffsurrogate.envs.env import State
from diffsurrogate.envs.registry import as_multi_agent
from diffsurrogate.errors import UsageError
from diffsurrogate.wrappers.base import GradientWrapper
from diffsurrogate.wrappers.learned import LearnedDiffWrapper


class ObservationHistory(GradientWrapper):
    """Shows every agent its last few observations and the actions between them.

    For partially observable envs: world models and critics see as much as the policy, without a
    GRU. Rows begin with the current observation, then come the one before with the action after
    it, and so on. Where an episode begins, its first observation stands for all before, with
    actions of 0. Action masks and global states are in the current observation only. Gradients of
    the env's own pass through.

    Example:
        >>> from diffsurrogate import LearnedDiffWrapper, ObservationHistory, make
        >>> env = ObservationHistory(make("gymnasium/Pendulum-v1", num_envs=4), steps=3)
        >>> env.obs_dim  # 3 observations of 3 numbers, and 2 actions
        11
        >>> env = LearnedDiffWrapper(env)
    """

    def __init__(self, env: Any, *, steps: int) -> None:
        """Wrap an env.

        Args:
            env: one of ours, or anything `as_multi_agent` knows.
            steps: observations in a row, with the current one; at least 2.

        Raises:
            UsageError: `steps` is less than 2, or the env is a `LearnedDiffWrapper`.
        """
        if isinstance(env, LearnedDiffWrapper):
            raise UsageError(
                "models are to learn from the history too; wrap the other way round: "
                "LearnedDiffWrapper(ObservationHistory(env.env, steps=...))"
            )
        require_whole("steps", steps)
        if steps < 2:
            raise UsageError(f"steps is {steps}; a history needs at least 2 observations")
        self.env = env = as_multi_agent(env)
        kept = torch.ones(env.obs_dim, dtype=torch.bool, device=env.device)
        for told_once in (env.action_mask_slice, env.global_state_slice):
            if told_once is not None:
                kept[told_once] = False
        self._kept = kept.nonzero().squeeze(1)
        self._space = ActionSpace(env.action_low, env.action_high, discrete=env.discrete_actions)
        self._times = steps - 1
        self._past = torch.empty(0)
        obs, act = env.single_observation_space, env.single_action_space
        assert isinstance(obs, Box) and isinstance(act, Box)
        columns = kept.cpu().numpy()
        low = [obs.low, *[obs.low[:, columns], np.minimum(act.low, 0)] * self._times]
        high = [obs.high, *[obs.high[:, columns], np.maximum(act.high, 0)] * self._times]
        super().__init__(
            num_envs=env.num_envs,
            agents=env.agents,
            observation_space=Box(np.hstack(low), np.hstack(high), dtype=np.float32),
            action_space=act,
            device=env.device,
            gradients=env.gradients,
            max_steps=env.max_steps,
        )
        self.metadata, self.render_mode = env.metadata, env.render_mode
        self._keep_roles()
        then = [env.observation_mask[:, self._kept], env.valid_action_dims]
        self.observation_mask = torch.cat([env.observation_mask, *then * self._times], dim=1)

    # --- the env protocol ----------------------------------------------------------------------

    @property
    def current_obs(self) -> Tensor:
        """(env, agent, obs_dim): what the agents see now."""
        return torch.cat([self.env.current_obs, self._past], -1)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Tensor, dict[str, Any]]:
        """Reset every env."""
        started = self._past.numel() > 0
        obs, info = self.env.reset(seed=seed, options=options)
        first = self._first(obs)
        fresh = self.env.episode_start[:, None, None]
        self._past = torch.where(fresh, first, self._past) if started else first
        return torch.cat([obs, self._past], -1), info

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Any]]:
        """Step the env; see `MultiAgentVectorEnv.step`."""
        self.check_action(actions)
        taken = self._space.executed(self.apply_action_mask(actions))
        if self.alive_mask is not None:  # what the dead are told to do is not done
            taken = taken * self.alive_mask.unsqueeze(-1)
        latest = [self.env.current_obs[..., self._kept], taken]
        obs, reward, terminated, truncated, info = self.env.step(actions)
        width = sum(part.shape[-1] for part in latest)
        past = torch.cat([*latest, self._past[..., :-width]], -1)
        info = info | {"final_obs": torch.cat([info["final_obs"], past], -1)}
        ended = info["_final_obs"]
        self._past = torch.where(ended[:, None, None], self._first(obs), past)
        return torch.cat([obs, self._past], -1), reward, terminated, truncated, info

    def detach(self) -> None:
        """Cut the graph of the env and of the history."""
        super().detach()
        self._past = self._past.detach()

    def state(self) -> State:
        """Return the wrapped env's state and the history."""
        return {"env": self.env.state(), "past": self._past.detach().clone()}

    def set_state(self, state: State) -> None:
        """Restore what `state` returned, without a graph."""
        self.env.set_state(state["env"])
        self._past = state["past"].to(self.device, copy=True)

    def _first(self, obs: Tensor) -> Tensor:
        """Return the history of episodes that begin with `obs`."""
        seen = obs[..., self._kept]
        nothing = seen.new_zeros(*seen.shape[:-1], self.act_dim)
        return torch.cat([seen, nothing] * self._times, -1)

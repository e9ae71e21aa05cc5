"""One agent's action shared out among several, as MaMuJoCo does with a robot's joints."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box
from torch import Tensor

from diffsurrogate.envs.env import MultiAgentVectorEnv
from diffsurrogate.envs.registry import as_multi_agent
from diffsurrogate.errors import UsageError
from diffsurrogate.wrappers.base import GradientWrapper
from diffsurrogate.wrappers.learned import LearnedDiffWrapper


class SplitAgents(GradientWrapper):
    """Lets several agents act as one: each decides some entries of an action.

    Every agent earns the same share of the reward, so that returns, which are sums over agents,
    are those of the env itself. Gradients of the env's own pass through.

    Example:
        >>> from diffsurrogate import make
        >>> from diffsurrogate.wrappers.split_agents import SplitAgents
        >>> robot = make("vmas/navigation", num_envs=4, n_agents=1)
        >>> env = SplitAgents(robot, {"east-west": [0], "north-south": [1]})
    """

    def __init__(
        self,
        env: Any,
        actions: Mapping[str, Sequence[int]],
        observations: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        """Share out the actions of an env.

        Args:
            env: with one agent and continuous actions, or anything `as_multi_agent` makes one of.
            actions: by the names of the new agents, which entries of the action are theirs. Every
                entry belongs to exactly one agent.
            observations: by the same names, which entries of the observation an agent sees; all of
                them if None. Agents that see less than others see zeros at the end of their rows.
                The global state of an env that has it (`global_state_slice`) follows in every row.

        Raises:
            UsageError: the env has several agents or choices or is a `LearnedDiffWrapper`, an entry
                of the action is left over or shared, or an index is out of range.
        """
        if isinstance(env, LearnedDiffWrapper):
            raise UsageError(
                "models are to learn of the agents that act, and would not be trained here; wrap "
                "the other way round: LearnedDiffWrapper(SplitAgents(env.env, ...))"
            )
        self.env = env = as_multi_agent(env)
        if env.num_agents != 1:
            raise UsageError(
                f"this env has the agents {', '.join(env.agents)} already; give one with one agent"
            )
        if env.discrete_actions:
            raise UsageError(
                "an action of this env is one choice, which several agents cannot share; give an "
                "env with continuous actions"
            )
        names = list(actions)
        state = range(env.obs_dim)[env.global_state_slice or slice(0)]
        whole = [index for index in range(env.obs_dim) if index not in state]
        sees = {name: whole for name in names} if observations is None else observations
        _check(names, actions, observations, env, state)
        self._acts, has_action = _table([actions[name] for name in names], env.device)
        self._sees, seeing = _table([sees[name] for name in names], env.device)
        if len(state) > 0:  # all agents' rows end with it
            self.global_state_slice = slice(seeing.shape[1], seeing.shape[1] + len(state))
            row = torch.tensor([*state], device=env.device).expand(len(names), -1)
            self._sees = torch.cat([self._sees, row], dim=1)
            seeing = torch.cat([seeing, torch.ones_like(row, dtype=torch.bool)], dim=1)
        self.offers_state, self.resets_itself = env.offers_state, env.resets_itself
        self._from = torch.zeros(env.act_dim, dtype=torch.long, device=env.device)
        self._from[self._acts[has_action]] = has_action.flatten().nonzero().squeeze(1)
        obs, act = env.single_observation_space, env.single_action_space
        super().__init__(
            num_envs=env.num_envs,
            agents=names,
            observation_space=_box(obs, self._sees, seeing, padding=(0, 0)),
            action_space=_box(act, self._acts, has_action, padding=(-1, 1)),
            device=env.device,
            gradients=env.gradients,
            max_steps=env.max_steps,
        )
        self.observation_mask, self.valid_action_dims = seeing, has_action
        self.metadata, self.render_mode = env.metadata, env.render_mode

    # --- the env protocol ----------------------------------------------------------------------

    @property
    def current_obs(self) -> Tensor:
        """(env, agent, obs_dim): what the agents would see now."""
        return self._seen(self.env.current_obs)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Tensor, dict[str, Any]]:
        """Reset every env."""
        obs, info = self.env.reset(seed=seed, options=options)
        return self._seen(obs), info

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Any]]:
        """Act as one; see `MultiAgentVectorEnv.step`."""
        self.check_action(actions)
        joint = actions.flatten(1)[:, self._from].unsqueeze(1)
        obs, reward, terminated, truncated, info = self.env.step(joint)
        shares = (reward / self.num_agents).expand(-1, self.num_agents)
        info = info | {"final_obs": self._seen(info["final_obs"])}
        return self._seen(obs), shares, terminated, truncated, info

    def _seen(self, obs: Tensor) -> Tensor:
        """Return what each agent sees of the observation (env, 1, obs_dim)."""
        return torch.where(self.observation_mask, obs[:, 0, self._sees], 0.0)


def _check(
    names: Sequence[str],
    actions: Mapping[str, Sequence[int]],
    observations: Mapping[str, Sequence[int]] | None,
    env: MultiAgentVectorEnv,
    state: range,
) -> None:
    """Refuse shares that are none, or that do not make up the whole action."""
    if not names:
        raise UsageError("actions names no agents; give {name: [entries of the action], ...}")
    if observations is not None and set(observations) != set(names):
        raise UsageError(
            f"observations are of {sorted(observations)}, actions of {sorted(names)}; name the "
            "same agents in both"
        )
    given = sorted(index for name in names for index in actions[name])
    if given != list(range(env.act_dim)):
        raise UsageError(
            f"actions shares out the entries {given}; each of 0 to {env.act_dim - 1} must be given "
            "to one agent"
        )
    for name in names:
        seen = range(env.obs_dim) if observations is None else observations[name]
        secret = [index for index in seen if index in state] if observations is not None else []
        if secret:
            raise UsageError(
                f"agent {name!r} is to see the entries {secret}, which are of the global state; "
                "critics and models get it by themselves"
            )
        if len(actions[name]) == 0 or len(seen) == 0:
            raise UsageError(f"agent {name!r} has nothing to do or to see; leave it out")
        wrong = [index for index in seen if not 0 <= index < env.obs_dim]
        if wrong:
            raise UsageError(
                f"agent {name!r} is to see the entries {wrong}, but observations have 0 to "
                f"{env.obs_dim - 1}"
            )


def _table(rows: Sequence[Iterable[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return indices (agent, longest) padded with 0, and which of them are not padding."""
    lists = [list(row) for row in rows]
    longest = max(map(len, lists))
    table = [[*row, *[0] * (longest - len(row))] for row in lists]
    real = [[place < len(row) for place in range(longest)] for row in lists]
    return torch.tensor(table, device=device), torch.tensor(real, device=device)


def _box(space: Box, table: Tensor, real: Tensor, padding: tuple[int, int]) -> Box:
    """Return the box of the agents' rows."""
    index, kept = table.cpu().numpy(), real.cpu().numpy()
    low, high = (
        np.where(kept, bound[0][index], np.float32(pad)).astype(np.float32)
        for bound, pad in zip((space.low, space.high), padding, strict=True)
    )
    return Box(low, high, dtype=np.float32)

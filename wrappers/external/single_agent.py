"""What vector envs of single-agent envs have in common, whichever library they are of."""

from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector.utils import batch_space, iterate
from numpy.typing import NDArray
from torch import Tensor

from diffsurrogate.envs.bounds import Bounds
from diffsurrogate.envs.raw_form import Answer, RawForm
from diffsurrogate.errors import UsageError
from diffsurrogate.wrappers.external.adapter import ExternalEnv
from diffsurrogate.wrappers.external.checks import (
    ExternalChecks,
    awaited_env,
    end_if_stuck,
    misfit,
    name_of_copies,
)
from diffsurrogate.wrappers.external.spaces import (
    action_box,
    agent_names,
    into_box,
    observation_box,
    valid_action_dims,
)


class SingleAgentEnv(ExternalEnv):
    """A vector env of another library with the one agent "agent".

    `MultiDiscrete` actions are several choices: each is made by its own agent ("choice_0",
    "choice_1", ...), which sees all and earns an equal share of the reward, so that returns, which
    are sums over agents, are the raw env's.
    """

    def __init__(
        self,
        raw: Any,
        observations: gymnasium.Space[Any],
        actions: gymnasium.Space[Any],
        bounds: Bounds | None,
        **options: Any,
    ) -> None:
        """Take over `raw`, whose single envs have these spaces; see `ExternalEnv` for the options.

        Raises:
            UsageError: the observations or the actions are not supported.
        """
        agents = agent_names(actions)
        super().__init__(
            num_envs=raw.num_envs,
            agents=agents,
            observation_space=observation_box(observations, len(agents)),
            action_space=action_box(actions),
            check_bounds=False,  # `raw`'s own are checked, before agents share them
            **options,
        )
        self.discrete_actions = isinstance(actions, spaces.Discrete | spaces.MultiDiscrete)
        self.valid_action_dims = valid_action_dims(actions).to(self.device)
        self.raw = raw
        self.render_mode = raw.render_mode
        self._observations: Any = observations
        self._actions: Any = actions
        self._raw_shape: tuple[int, ...] = (self.obs_dim,)  # of flattened ones
        if isinstance(observations, spaces.Box):
            self._raw_shape = observations.shape
        self._cut = torch.zeros(self.num_envs, dtype=torch.bool, device=self.device)
        self._obs = torch.zeros(self.num_envs, 1, self.obs_dim)
        self._step_checks.name = name_of_copies(raw.unwrapped)
        self._checks = ExternalChecks(self._step_checks.name, self.num_envs)
        self._bounds = bounds

    def close_extras(self, **kwargs: Any) -> None:
        """Close the raw env; its processes are ended where one of them died."""
        end_if_stuck(self.raw.unwrapped)
        self.raw.close(**kwargs)

    @property
    def raw_form(self) -> RawForm:
        """How `raw` gives observations and takes actions, those of its spaces."""
        own = super().raw_form
        return _OfSpaces(own, self._observations, self._actions, self._raw_actions)

    def _awaited(self) -> str:
        return awaited_env(self.raw.unwrapped)

    def _cut_short(self) -> Tensor:
        return self._cut

    # --- between tensors and the raw env --------------------------------------------------------

    def _raw_actions(self, action: Tensor) -> NDArray[Any]:
        """Return what `raw` takes for actions `(env, agent, act_dim)` in the box."""
        space, rows = self._actions, action.detach().cpu()
        if isinstance(space, spaces.Discrete):
            return rows.argmax(-1).squeeze(1).numpy() + int(space.start)
        if isinstance(space, spaces.MultiDiscrete):
            choices = rows.argmax(-1).numpy().reshape(len(rows), *space.shape) + space.start
            return choices.astype(space.dtype)
        return into_box(rows.numpy(), space)

    def _rows(self, obs: Any) -> Tensor:
        """Return a batch of `raw`'s observations as a new `(env, 1, obs_dim)` float32."""
        rows = self._checks.batch("observation", obs, self._raw_shape, self._bounds)
        return torch.from_numpy(rows.reshape(self.num_envs, 1, -1))

    def _last_row(self, field: str, obs: Any, shape: tuple[int, ...], index: int) -> Tensor:
        """Return the observation before a reset as a new `(obs_dim,)` float32."""
        if obs is None:
            raise self._checks.missing(f'info["{field}"]', index)
        row = self._checks.one(field, obs, shape, index, self._bounds)
        return torch.from_numpy(row.reshape(-1))

    def _stepped(
        self, final: Tensor, reward: Any, terminated: NDArray[np.bool_], cut: NDArray[np.bool_]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Keep what was cut short; return what `_advance` does, each agent with its share."""
        self._cut = torch.from_numpy(cut).to(self.device)
        rewards = torch.from_numpy(self._checks.batch("reward", reward, ()))
        return (
            self._shared(final),
            self._shared(rewards.unsqueeze(1) / self.num_agents),
            torch.from_numpy(terminated).to(self.device),
        )


class _OfSpaces(RawForm):
    """Of a raw env with one observation and one action space; our own arrays are read too.

    Observations are read one by one, or as the batch that a vector env gives.
    """

    def __init__(
        self,
        own: RawForm,
        space: gymnasium.Space[Any],
        actions: Any,
        raw_actions: Callable[[Tensor], NDArray[Any]],
    ) -> None:
        super().__init__(own.agents, own.seen, own.acted, discrete=own.discrete)
        self.space, self.actions, self.raw_actions = space, actions, raw_actions

    @property
    def obs_shape(self) -> tuple[int, ...]:
        return self.space.shape if isinstance(self.space, spaces.Box) else self.seen.shape[1:]

    @property
    def action_shape(self) -> tuple[int, ...]:
        return tuple(self.actions.shape)

    @property
    def first_choice(self) -> int | NDArray[np.integer[Any]]:
        return self.actions.start if self.discrete else 0

    def read(self, obs: Any) -> tuple[Tensor, Answer]:
        lead = self._lead(obs)
        if lead is None:
            return super().read(obs)
        seen = self._rows(self._flat(obs, lead))
        agents, obs_dim = self.seen.shape

        def answer(action: Tensor) -> Any:
            found = self.raw_actions(action)
            found = found.reshape((*lead, *found.shape[1:]))[()]
            return torch.as_tensor(found, device=obs.device) if isinstance(obs, Tensor) else found

        return seen.reshape(-1, 1, obs_dim).repeat_interleave(agents, dim=1), answer

    def _lead(self, obs: Any) -> tuple[int, ...] | None:
        """Return the axes before those of `space`; None if `obs` is not of it."""
        return _lead_of(self.space, obs)

    def _flat(self, obs: Any, lead: tuple[int, ...]) -> Any:
        """Return observations as arrays, whose last axes are one observation."""
        if isinstance(self.space, spaces.Box):
            return obs
        if not lead:
            return spaces.flatten(self.space, obs)
        several = iterate(batch_space(self.space, lead[0]), obs)
        rows: list[Any] = [spaces.flatten(self.space, one) for one in several]
        return np.stack(rows)

    def _needed(self) -> str:
        return f"give an observation of {self.space}, or {super()._needed().removeprefix('give ')}"

    def _check_agents(self, obs: Any) -> None:
        found = f" is a dict of {list(obs)}"
        if isinstance(self.space, spaces.Dict) and obs.keys() == self.space.spaces.keys():
            found = misfit(self.space, obs) or found
        raise UsageError(f"obs{found}, but observations are of {self.space}, one or a batch")


def _lead_of(space: gymnasium.Space[Any], obs: Any) -> tuple[int, ...] | None:
    """Return the axes before those of a space: none, or the batch's; None if `obs` is not of it."""
    if isinstance(space, spaces.Box):
        shape = tuple(np.shape(obs))
        return next((lead for lead in ((), shape[:1]) if shape == (*lead, *space.shape)), None)
    parts: list[tuple[gymnasium.Space[Any], Any]] = []
    if isinstance(space, spaces.Dict):
        if not isinstance(obs, Mapping) or obs.keys() != space.spaces.keys():
            return None
        parts = [(part, obs[key]) for key, part in space.items()]
    elif isinstance(space, spaces.Tuple):
        if not isinstance(obs, tuple) or len(obs) != len(space):
            return None
        parts = list(zip(space.spaces, obs, strict=True))
    if parts:
        leads = {_lead_of(part, one) for part, one in parts}
        return leads.pop() if len(leads) == 1 else None
    if space.contains(obs):
        return ()
    several = isinstance(obs, np.ndarray) and obs.ndim > 0
    return (len(obs),) if several and batch_space(space, len(obs)).contains(obs) else None

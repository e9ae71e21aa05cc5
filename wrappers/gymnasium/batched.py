"""Envs of GPU simulators, batched already: Isaac Lab, ManiSkill, mjlab, rsl_rl, Genesis.

They share a convention, not a class: `num_envs`, `device`, tensors `(env, ...)`, observations in
groups. Tensors stay on the simulator's device.
"""

import inspect
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import torch
from gymnasium import spaces
from torch import Tensor

from diffsurrogate.envs.env import MultiAgentVectorEnv
from diffsurrogate.errors import UsageError
from diffsurrogate.wrappers.external.adapter import ExternalEnv, check_count
from diffsurrogate.wrappers.external.checks import ExternalChecks
from diffsurrogate.wrappers.external.infos import of_tensors
from diffsurrogate.wrappers.external.spaces import action_box, agent_names, valid_action_dims
from diffsurrogate.wrappers.gymnasium.observation_groups import Groups, as_box

FINAL = ("final_obs", "final_observation", "terminal_observation", "terminal_obs")
"""Where infos have the observations before a reset."""
NO_FINAL = (
    "{name} gives no final observations (no {keys} in its infos), so that where an episode was "
    "truncated, the observation before the last step stands in for the last one. {how} gives exact "
    "ones"
)
_MISSING = object()
_LAYERS = (gymnasium.Wrapper, gymnasium.vector.VectorWrapper)


class BatchedEnv(ExternalEnv):
    """A simulator of many copies that takes and gives tensors, as an env with the agent "agent".

    What policies see is the observation group "policy" or "actor", and what only critics and models
    see (`global_state_slice`) is "critic", if there is one; without such groups all is for
    policies. Nested groups are flattened. Values stay tensors on the simulator's device, as
    float32 and without a graph; they are copied, as such simulators write into their buffers.

    A step may return Gymnasium's five values, or rsl_rl's four: observations, reward, done, infos.
    An end that `infos["time_outs"]` has is a truncation; what it says of envs that did not end is
    left over from an earlier step, as in legged_gym.

    **Last observations.** Those in infos (`final_obs`, `final_observation`, ...) are taken. A
    simulator that does not reset ended envs itself (mjlab with `auto_reset=False`, ManiSkill's envs
    without its `ManiSkillVectorEnv`) shows them, and is reset from here. Where neither is so, as in
    Isaac Lab, the observation before the last step stands in, which a warning says once: the
    value of a truncated episode is then that of the state one step earlier, never that of the next
    episode.

    Simulators that reset ended envs themselves have no time limit but their own: `max_steps` is
    None. Most draw from torch's global random stream, which a seed of `reset` sets; those whose
    `reset` takes no seed, and that have no `seed` method, ignore it. The state cannot be saved.
    """

    library = "this simulator"
    drawn_if = None

    def __init__(
        self,
        raw: Any,
        *,
        max_steps: int | None = None,
        seed: int | None = None,
        device: torch.device | str | None = None,
        check_bounds: bool = True,
        action_bound: float | None = None,
        policy_groups: Sequence[str] | None = None,
        state_groups: Sequence[str] | None = None,
    ) -> None:
        """Take over `raw`, which must not be used directly from now on.

        Args:
            raw: see the class.
            max_steps, seed, check_bounds: see `ExternalEnv`.
            device: the simulator's own, or None.
            action_bound: actions are within ±this; needed where the simulator has no finite box.
            policy_groups: what policies see; None for the class's choice.
            state_groups: what critics and models see as well; None for the class's choice, () for
                nothing.

        Raises:
            UsageError: the message names the attribute that is missing or not understood.
        """
        self.raw = raw
        self._name = type(_inner(raw)).__name__
        num_envs = _attribute(raw, "num_envs")
        if not isinstance(num_envs, int):
            raise UsageError(f"{self._name}.num_envs is {num_envs!r}; a whole number is needed")
        if _attribute(raw, "possible_agents", None) is not None:
            raise UsageError(
                f"{self._name} has possible_agents: batched envs of several agents are not "
                "supported; give one with a single group of actions"
            )
        own = _device(_attribute(raw, "device", "cpu"))
        if device is not None and _device(device) != own:
            raise UsageError(
                f"device is {device}, but {self._name}.device is {own}, where its tensors stay; "
                "leave device out"
            )
        self._checks = ExternalChecks(self._name, num_envs)
        actions = _action_space(raw, self._name, num_envs, action_bound)
        observations = _observation_space(raw, num_envs)
        if observations is None:
            observations = _observations_now(raw)
        groups = Groups(observations, self._name, num_envs, own, policy_groups, state_groups)
        self._groups = groups
        agents = agent_names(actions)
        resets_itself = _resets_itself(raw)
        self._partial = _partial_reset(raw)
        if not resets_itself and self._partial is None:
            raise UsageError(
                f"{self._name} does not reset ended envs itself, and its reset takes no env_ids; "
                "add env_ids, or let step reset them"
            )
        self.resets_itself = resets_itself
        self.takes_reset_options = _takes(raw.reset, "options") or _takes(raw.reset, "kwargs")
        limit = _own_limit(raw)
        if resets_itself and max_steps is not None:
            raise UsageError(
                f"max_steps is {max_steps}, but {self._name} resets its envs itself; set its own "
                "time limit (max_episode_length, or episode_length_s of its configuration)"
            )
        super().__init__(
            num_envs=num_envs,
            agents=agents,
            observation_space=groups.box(len(agents)),
            action_space=action_box(actions),
            check_bounds=check_bounds,
            limits=(None if resets_itself else limit,),
            max_steps=max_steps,
            seed=seed,
            device=own,
        )
        self._step_checks.name = self._name
        self.discrete_actions = isinstance(actions, spaces.Discrete | spaces.MultiDiscrete)
        self.valid_action_dims = valid_action_dims(actions).to(own)
        self.global_state_slice, self.offers_state = groups.state, groups.state is not None
        self._actions = actions
        self._cut = torch.zeros(num_envs, dtype=torch.bool, device=own)
        self._rows = torch.zeros(num_envs, self.obs_dim, device=own)
        self._warned = False

    @classmethod
    def from_raw(
        cls,
        raw: Any,
        *,
        num_envs: int | None = None,
        make_another: Callable[[], Any] | None = None,
        **options: Any,
    ) -> MultiAgentVectorEnv:
        """Adapt a batched env; `num_envs` is its own."""
        own = _attribute(raw, "num_envs")
        check_count(own if num_envs is None else num_envs, own)
        return super().from_raw(raw, **options)

    def close_extras(self, **kwargs: Any) -> None:
        """Close the simulator, if it can be closed."""
        if hasattr(self.raw, "close"):
            self.raw.close()

    # --- the env protocol -----------------------------------------------------------------------

    def _reset_all(self, seed: int | None) -> Tensor:
        seed = self._seed_of_reset(seed)
        self._checks.step = 0
        with self._checks.calling("reset()"):
            result = _reset(self.raw, seed, self._reset_options)
        self._rows = self._read(result)
        return self._shared(self._rows.unsqueeze(1))

    def _reset_where(self, mask: Tensor) -> Tensor:
        if not self.resets_itself and self._partial is not None and bool(mask.any()):
            with self._checks.calling("reset() of some envs"):
                result = self._partial(mask, self._reset_options)
            self._rows = torch.where(mask.unsqueeze(1), self._read(result), self._rows)
        return self._shared(self._rows.unsqueeze(1))

    def _advance(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        self._checks.step += 1
        before = self._rows
        with self._checks.calling("step()"):
            result = self.raw.step(self._raw_actions(action))
        obs, given, terminated, self._cut, infos = self._parts(result)
        self._rows = final = self._groups.rows(obs, infos)
        told = of_tensors(infos.get("final_info") or infos, self.num_envs)
        self._told = {name: values.to(self.device) for name, values in told.items()}
        ended = terminated | self._cut
        if self.resets_itself and bool(ended.any()):
            final = torch.where(ended.unsqueeze(1), self._last(infos, before, ended), final)
        reward = self._column("reward", given).to(torch.float32).reshape(-1, 1, 1)
        return (
            self._shared(final.unsqueeze(1)),
            self._shared(reward / self.num_agents).squeeze(-1),
            terminated,
        )

    def _cut_short(self) -> Tensor:
        return self._cut

    # --- between our tensors and the simulator's -------------------------------------------------

    def _raw_actions(self, action: Tensor) -> Tensor:
        """Return what the simulator takes, a tensor of its own."""
        space, action = self._actions, action.detach()
        shape: Any = space.shape
        if not isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
            return action.clone().reshape(self.num_envs, *shape)
        first = torch.as_tensor(space.start).to(self.device)
        return action.argmax(-1).reshape(self.num_envs, *shape) + first

    def _read(self, result: Any) -> Tensor:
        """Return the observations `(env, obs_dim)` that a reset gave, with infos or without."""
        obs, infos = result if isinstance(result, tuple) else (result, {})
        return self._groups.rows(obs, infos)

    def _parts(self, result: Any) -> tuple[Any, Any, Tensor, Tensor, dict[str, Any]]:
        """Return observations, reward, terminated, truncated and infos of a step."""
        if not isinstance(result, tuple) or len(result) not in (4, 5):
            size = f" of {len(result)} values" if isinstance(result, tuple) else ""
            raise UsageError(
                f"{self._name}.step returned a {type(result).__name__}{size}; (obs, reward, "
                "terminated, truncated, infos) or (obs, reward, done, infos) is needed"
            )
        obs, reward, *ends, infos = result
        if not isinstance(infos, dict):
            raise UsageError(
                f"{self._name}.step returned infos of type {type(infos).__name__}; a dict is needed"
            )
        flags = [self._column("terminated", ends[0]) != 0]
        flags.append(self._column("truncated", ends[1]) != 0 if len(ends) > 1 else flags[0] & False)
        terminated, truncated = flags
        over_time = infos.get("time_outs")
        if over_time is not None:
            late = (self._column('infos["time_outs"]', over_time) != 0) & terminated & ~truncated
            terminated, truncated = terminated & ~late, truncated | late
        return obs, reward, terminated, truncated, infos

    def _column(self, field: str, got: Any) -> Tensor:
        """Return one number per env `(env,)`."""
        if not isinstance(got, Tensor) or got.numel() != self.num_envs or got.ndim not in (1, 2):
            what = f"of shape {tuple(got.shape)}" if isinstance(got, Tensor) else repr(type(got))
            raise UsageError(
                f"{self._name}.step returned {field} {what}; a tensor ({self.num_envs},), one per "
                "env, is needed"
            )
        return got.detach().to(self.device).reshape(-1).clone()

    def _last(self, infos: dict[str, Any], before: Tensor, ended: Tensor) -> Tensor:
        """Return what ended envs saw before their reset, `(env, obs_dim)`."""
        counts = _attribute(self.raw, "episode_length_buf", None)
        if isinstance(counts, Tensor) and bool((counts.to(self.device)[ended] > 1).any()):
            raise UsageError(
                f"{self._name}.episode_length_buf goes on after an episode ended, so step did not "
                "reset the env; reset ended envs in step, or set cfg.auto_reset = False"
            )
        key = next((name for name in FINAL if infos.get(name) is not None), None)
        if key is None:
            if not self._warned and bool(self._cut.any()):
                self._warned = True
                how = "An env that is reset from outside (mjlab: cfg.auto_reset = False)"
                text = NO_FINAL.format(name=self._name, keys=" or ".join(FINAL), how=how)
                warnings.warn(text, UserWarning, stacklevel=2)
            return before
        there = infos.get(f"_{key}")
        if there is not None and bool((ended & ~self._column(f"_{key}", there)).any()):
            raise self._checks.missing(f'infos["{key}"]', int(ended.nonzero()[0]))
        last = self._groups.rows(infos[key], {}, f'infos["{key}"]')
        self._checks.not_reused(last, self._rows, before, ended)
        return last


def is_batched(raw: Any) -> bool:
    """Return whether a `gymnasium.Env` is batched itself.

    Raises:
        UsageError: it has several `num_envs`, but spaces that are not batched.
    """
    count = _attribute(raw, "num_envs", None)
    if not isinstance(count, int):
        return False
    shape = getattr(_attribute(raw, "action_space", None), "shape", None) or ()
    if _attribute(raw, "single_action_space", None) is not None or shape[:1] == (count,) != (1,):
        return True
    if count == 1:
        return False  # an env of its own that counts itself
    raise UsageError(
        f"{type(_inner(raw)).__name__}.num_envs is {count}, but it has no single_action_space and "
        f"its action_space has shape {tuple(shape)}; give it single_observation_space and "
        "single_action_space, those of one env, or remove num_envs"
    )


def gives_tensors(raw: Any) -> bool:
    """Return whether a `gymnasium.vector.VectorEnv`, or a layer of it, has tensors on a device."""
    layer = raw
    while layer is not None:
        if isinstance(getattr(layer, "device", None), torch.device | str):
            return True
        if getattr(layer, "_target_xp", None) is torch:  # Gymnasium's NumpyToTorch
            return True
        layer = layer.env if isinstance(layer, _LAYERS) else None
    return False


# --- what the simulator says of itself ------------------------------------------------------------


def _inner(raw: Any) -> Any:
    return getattr(raw, "unwrapped", raw)


def _attribute(raw: Any, name: str, default: Any = _MISSING) -> Any:
    """Return an attribute of the outermost layer that has it.

    Raises:
        UsageError: none has it, and there is no default.
    """
    layer = raw
    while layer is not None:
        try:
            return getattr(layer, name)
        except AttributeError:
            layer = layer.env if isinstance(layer, _LAYERS) else None
    found = getattr(_inner(raw), name, default)
    if found is _MISSING:
        raise UsageError(f"{type(_inner(raw)).__name__} has no {name}, which batched envs need")
    return found


def _device(given: Any) -> torch.device:
    """Return a device with its index, as tensors have it."""
    return torch.empty(0, device=given).device


def _action_space(raw: Any, name: str, num_envs: int, bound: float | None) -> gymnasium.Space[Any]:
    single = _attribute(raw, "single_action_space", None)
    where = "single_action_space"
    if single is None:
        batch, count = _attribute(raw, "action_space", None), _attribute(raw, "num_actions", None)
        if isinstance(batch, spaces.Box) and batch.shape[:1] == (num_envs,):
            single = spaces.Box(batch.low[0], batch.high[0], dtype=batch.dtype.type)
        elif isinstance(count, int):
            where = "num_actions"
            single = spaces.Box(-float("inf"), float("inf"), (count,))
        else:
            raise UsageError(f"{name} has no single_action_space and no num_actions")
    single = as_box(single, f"{name}.{where}") if not _are_choices(single) else single
    if isinstance(single, spaces.Box) and not single.is_bounded():
        if bound is None:
            raise UsageError(
                f"{name}.{where} has no finite bounds; give the largest size of an action, in the "
                "simulator's own units: as_multi_agent(env, action_bound=1.0)"
            )
        return spaces.Box(-bound, bound, single.shape)
    if bound is not None:
        raise UsageError(f"action_bound is {bound}, but {name}.{where} is finite; leave it out")
    return single


def _are_choices(space: Any) -> bool:
    return isinstance(space, spaces.Discrete | spaces.MultiDiscrete)


def _observation_space(raw: Any, num_envs: int) -> Any:
    """Return the space of one env's observations; None if the simulator has none."""
    single = _attribute(raw, "single_observation_space", None)
    if single is not None:
        return single
    batch = _attribute(raw, "observation_space", None)
    return None if batch is None else _first_of(batch, num_envs)


def _first_of(space: Any, num_envs: int) -> Any:
    """Return the space of one env, of a batch's."""
    if isinstance(space, spaces.Dict):
        return spaces.Dict({key: _first_of(part, num_envs) for key, part in space.items()})
    if isinstance(space, spaces.Box) and space.shape[:1] == (num_envs,):
        return spaces.Box(space.low[0], space.high[0], dtype=space.dtype.type)
    return space


def _observations_now(raw: Any) -> Any:
    """Return observations of a simulator that declares no space of them."""
    result = raw.get_observations() if hasattr(raw, "get_observations") else _reset(raw, None, {})
    return result[0] if isinstance(result, tuple) else result


def _own_limit(raw: Any) -> int | None:
    limit = _attribute(raw, "max_episode_length", None)
    if limit is None:
        limit = getattr(getattr(raw, "spec", None), "max_episode_steps", None)
    return int(limit) if isinstance(limit, int | float) and limit >= 1 else None


def _resets_itself(raw: Any) -> bool:
    """Return whether a step resets envs that ended in it."""
    inner = _inner(raw)
    for flag in (
        getattr(raw, "auto_reset", None),
        getattr(getattr(inner, "cfg", None), "auto_reset", None),
    ):
        if isinstance(flag, bool):
            return flag
    mode = (getattr(raw, "metadata", None) or {}).get("autoreset_mode")
    if isinstance(mode, gymnasium.vector.AutoresetMode):
        return mode == gymnasium.vector.AutoresetMode.SAME_STEP
    return not hasattr(inner, "elapsed_steps")  # ManiSkill's envs themselves


def _takes(function: Any, name: str) -> bool:
    return name in inspect.signature(function).parameters


def _reset(raw: Any, seed: int | None, options: dict[str, Any]) -> Any:
    """Reset all envs, with the seed where there is a way to give it, and with options if any."""
    given: dict[str, Any] = {"options": options} if options else {}
    if seed is not None:
        if _takes(raw.reset, "seed") or _takes(raw.reset, "kwargs"):
            given["seed"] = seed
        elif hasattr(raw, "seed"):
            raw.seed(seed)
    return raw.reset(**given)


def _partial_reset(raw: Any) -> Callable[[Tensor, dict[str, Any]], Any] | None:
    """Return what resets the envs of a mask `(env,)` and returns observations of all, if any can.

    `reset(env_ids=...)` is Isaac Lab's and mjlab's; the option "env_idx" is ManiSkill's, and
    "reset_mask" Gymnasium's.
    """
    inner = _inner(raw)
    if hasattr(inner, "elapsed_steps"):
        return lambda mask, options: raw.reset(
            options=options | {"env_idx": mask.nonzero().squeeze(1)}
        )
    if _takes(inner.reset, "env_ids"):
        return lambda mask, options: inner.reset(
            env_ids=mask.nonzero().squeeze(1), **({"options": options} if options else {})
        )
    if isinstance(raw, gymnasium.vector.VectorEnv):
        return lambda mask, options: raw.reset(options=options | {"reset_mask": mask})
    return None

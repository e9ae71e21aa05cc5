"""An env from a few functions of a dict of tensors.

The base class seeds, resets ended envs, saves, restores, checks what the functions return, and
passes gradients only where the env declares them.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium.spaces import Box
from torch import Tensor

from diffsurrogate.envs.checks import Fault, reason
from diffsurrogate.envs.env import MultiAgentVectorEnv, State
from diffsurrogate.errors import UsageError
from diffsurrogate.functional.discrete_actions import one_hot_argmax

TorchState = dict[str, Tensor]
"""The state of every env: named tensors whose first axis is env, of any dtype."""


class TorchEnv(MultiAgentVectorEnv):
    """An env written as functions of its state: `spawn`, `observe`, `advance` and `reward`.

    The functions must be deterministic (randomness belongs in `spawn`), must treat the envs
    independently, and must return new tensors rather than change the state in place.

    Example:
        >>> class Point(TorchEnv):
        ...     def spawn(self, count, generator):
        ...         return {"pos": torch.rand(count, 1, 2, generator=generator)}
        ...     def observe(self, state):
        ...         return state["pos"]
        ...     def advance(self, state, action):
        ...         return {"pos": state["pos"] + 0.1 * action}
        ...     def reward(self, state, action, next_state):
        ...         return -next_state["pos"].square().sum(-1)
        >>> env = Point(num_envs=64, agents=["point"], obs_dim=2, act_dim=2)
    """

    true_gradients: ClassVar[frozenset[str]] = frozenset({"dynamics", "reward"})
    """Which gradients of autograd are correct in this env (see `check_gradients`). Without
    "dynamics", `advance` runs without a graph; without "reward", `reward` does."""

    def __init__(
        self,
        *,
        num_envs: int,
        agents: Sequence[str],
        obs_dim: int,
        act_dim: int,
        action_limit: float = 1.0,
        discrete_actions: bool = False,
        seed: int = 0,
        device: torch.device | str = "cpu",
        differentiable: bool = False,
        max_steps: int | None = None,
    ) -> None:
        """Describe the env.

        Args:
            num_envs: number of envs that step together.
            agents: one name per agent.
            obs_dim: features of one agent's observation, unbounded.
            act_dim: features of one agent's action.
            action_limit: actions are clamped to [-action_limit, action_limit].
            discrete_actions: each agent has `act_dim` discrete actions instead; the functions get
                one-hot rows.
            seed: of the env's random stream, until `reset(seed=...)` gives another.
            device: of all tensors.
            differentiable: keep autograd's graph for the `true_gradients`.
            max_steps: steps after which an episode is truncated; None for never.

        Raises:
            UsageError: a size is below 1, the action box is empty or infinite, or gradients are
                requested from an env that declares none.
        """
        name = type(self).__name__
        unknown = set(self.true_gradients) - {"dynamics", "reward"}
        if unknown:
            raise UsageError(
                f"{name}.true_gradients names {sorted(unknown)}; only 'dynamics' and 'reward' exist"
            )
        if differentiable and not self.true_gradients:
            raise UsageError(
                f"differentiable=True asks for {name}'s native gradients, but its true_gradients "
                "is empty; leave it False and let LearnedDiffWrapper learn them"
            )
        if discrete_actions and differentiable:
            raise UsageError(
                f"{name}'s actions are discrete and pass no gradient to the simulation; leave "
                "differentiable=False and let LearnedDiffWrapper learn one"
            )
        if min(obs_dim, act_dim) < 1:
            raise UsageError(
                f"obs_dim is {obs_dim} and act_dim {act_dim}; at least 1 each is needed"
            )
        if not 0 < action_limit < float("inf"):
            raise UsageError(f"action_limit is {action_limit}; a finite number above 0 is needed")
        super().__init__(
            num_envs=num_envs,
            agents=agents,
            observation_space=Box(-np.inf, np.inf, (len(agents), obs_dim), np.float32),
            action_space=Box(
                0 if discrete_actions else -action_limit,
                1 if discrete_actions else action_limit,
                (len(agents), act_dim),
                np.float32,
            ),
            device=device,
            gradients=self.true_gradients if differentiable else (),
            max_steps=max_steps,
        )
        self.discrete_actions = discrete_actions or type(self).discrete_actions
        self._generator = torch.Generator(self.device).manual_seed(seed)
        self._state: TorchState = {}
        self._looked_at: set[str] = set()

    # --- to be implemented by subclasses --------------------------------------------------------

    @abstractmethod
    def spawn(self, count: int, generator: torch.Generator) -> TorchState:
        """Draw initial states of `count` envs, with randomness from `generator` only."""

    @abstractmethod
    def observe(self, state: TorchState) -> Tensor:
        """Return every agent's observation: (env, agent, obs_dim) float32."""

    @abstractmethod
    def advance(self, state: TorchState, action: Tensor) -> TorchState:
        """Return the next state; `action` is (env, agent, act_dim), within its bounds."""

    @abstractmethod
    def reward(self, state: TorchState, action: Tensor, next_state: TorchState) -> Tensor:
        """Return every agent's reward for the step: (env, agent) float32."""

    def terminated(self, state: TorchState) -> Tensor:
        """Return whether `state` ends the episode: (env,) bool. Never, unless overridden."""
        return torch.zeros(self.num_envs, dtype=torch.bool, device=self.device)

    # --- the env protocol -----------------------------------------------------------------------

    def _reset_all(self, seed: int | None) -> Tensor:
        if seed is not None:
            self._generator.manual_seed(seed)
        self._state = self._spawn()
        return self._observe()

    def _reset_where(self, mask: Tensor) -> Tensor:
        fresh = self._spawn()  # for all envs: the random stream must not depend on which ended
        self._state = {
            name: torch.where(mask.view(-1, *[1] * (old.dim() - 1)), fresh[name], old)
            for name, old in self._state.items()
        }
        return self._observe()

    def _advance(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        state = self._state
        if self.discrete_actions:
            action = one_hot_argmax(action)
        with self._gradient("dynamics"):
            self._state = self._call("advance", state, action)
        self._check_state("advance", self._state, like=state)
        with self._gradient("reward"):
            reward = self._call("reward", state, action, self._state)
        self._check("reward", reward, (self.num_envs, self.num_agents), torch.float32)
        with torch.no_grad():
            terminated = self._call("terminated", self._state)
        self._check("terminated", terminated, (self.num_envs,), torch.bool)
        return self._observe(), reward, terminated

    def detach(self) -> None:
        """Detach the state and the current observation from their graph."""
        self._state = {name: value.detach() for name, value in self._state.items()}
        if self._current is not None:
            self._current = self._current.detach()

    @property
    def native_gradients(self) -> frozenset[str]:
        """The gradients the env declares in `true_gradients`."""
        return self.true_gradients

    def enable_gradients(self, *kinds: str) -> None:
        """Keep the graph through all `true_gradients`, from the next step on.

        Raises:
            UsageError: one of `kinds` is not among them.
        """
        missing = sorted(set(kinds) - self.true_gradients)
        if kinds and self.discrete_actions:
            raise UsageError(
                f"{type(self).__name__}'s actions are discrete and pass no gradient to the "
                "simulation; let LearnedDiffWrapper learn one"
            )
        if missing:
            raise UsageError(
                f"{type(self).__name__}.true_gradients does not name {' and '.join(missing)}; let "
                "LearnedDiffWrapper learn it, or name it if autograd's gradient is correct"
            )
        self.gradients = self.true_gradients

    def disable_gradients(self) -> None:
        """Keep no graph from the next step on."""
        self.gradients = frozenset()

    def _save(self) -> State:
        state = {name: value.detach().clone() for name, value in self._state.items()}
        return {"state": state, "generator": self._generator.get_state()}

    def _restore(self, state: State) -> None:
        self._state = {k: v.to(self.device, copy=True) for k, v in state["state"].items()}
        self._generator.set_state(state["generator"].cpu())

    def _spawn(self) -> TorchState:
        with torch.no_grad():
            state = self._call("spawn", self.num_envs, self._generator)
        self._check_state("spawn", state, like=None)
        return state

    def _observe(self) -> Tensor:
        with self._gradient("dynamics"):
            obs = self._call("observe", self._state)
        self._check("observe", obs, (self.num_envs, self.num_agents, self.obs_dim), torch.float32)
        return obs

    def _gradient(self, name: str) -> torch.set_grad_enabled:
        return torch.set_grad_enabled(torch.is_grad_enabled() and name in self.gradients)

    # --- checks; the base class adds the step, and checks values ---------------------------------

    def _call(self, method: str, *given: Any) -> Any:
        try:
            return getattr(self, method)(*given)
        except UsageError:
            raise
        except Exception as error:
            raise Fault(f"{type(self).__name__}.{method} raised {reason(error)}") from error

    def _check(self, method: str, got: object, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        if isinstance(got, Tensor) and got.shape == shape and got.dtype == dtype:
            return
        call = f"{type(self).__name__}.{method}"
        if not isinstance(got, Tensor):
            raise Fault(f"{call} returned a {type(got).__name__}; a torch.Tensor is needed")
        if tuple(got.shape) != shape:
            axes = "(" + ", ".join(("env", "agent", "obs_dim")[: len(shape)]) + ")"
            raise Fault(
                f"{call} returned shape {tuple(got.shape)}; {axes} = {shape} is needed"
                + ("; for one agent, add an axis with unsqueeze(1)" if method == "reward" else "")
            )
        raise Fault(f"{call} returned dtype {got.dtype}; {dtype} is needed")

    def _check_state(self, method: str, got: object, like: TorchState | None) -> None:
        call = f"{type(self).__name__}.{method}"
        if not isinstance(got, dict) or not got:
            given = "an empty dict" if got == {} else f"a {type(got).__name__}"
            raise Fault(f"{call} returned {given}; a dict of named tensors is needed")
        if like is not None and got.keys() != like.keys():
            raise Fault(f"{call} returned the keys {list(got)}; {list(like)} are needed")
        for name, value in got.items():
            part = f"{call}['{name}']"
            if not isinstance(value, Tensor):
                raise Fault(f"{part} is a {type(value).__name__}; a torch.Tensor is needed")
            if value.dim() < 1 or len(value) != self.num_envs:
                raise Fault(
                    f"{part} has shape {tuple(value.shape)}; the first axis must be "
                    f"env = {self.num_envs}"
                )
            if like is not None and (value.shape, value.dtype) != (
                like[name].shape,
                like[name].dtype,
            ):
                raise Fault(
                    f"{part} is {tuple(value.shape)} {value.dtype}; as spawned, it must stay "
                    f"{tuple(like[name].shape)} {like[name].dtype}"
                )
            if method not in self._looked_at and not bool(torch.isfinite(value).all()):
                where = (~torch.isfinite(value)).nonzero()[0].tolist()
                raise Fault(f"{part} is not finite at {where}; finite numbers are needed")
        self._looked_at.add(method)  # from then on the base class checks observations only

"""An env from two pure functions of JAX, with its gradients where they are wanted."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium.spaces import Box
from torch import Tensor

from diffsurrogate.envs.env import MultiAgentVectorEnv, State
from diffsurrogate.envs.registry import usable_device
from diffsurrogate.errors import UsageError
from diffsurrogate.wrappers.external.adapter import env_seeds
from diffsurrogate.wrappers.jax.arrays import random_keys, saved, to_jax
from diffsurrogate.wrappers.jax.simulation import Reset, Rows, Simulation, Step

GRADIENTS = frozenset({"dynamics", "reward"})


class JaxEnv(MultiAgentVectorEnv):
    """Copies of an env that is two pure functions of one copy, compiled and differentiated by JAX.

    `reset(key)` returns state and obs; `step(state, action)` returns state, obs, reward and
    terminated. The state is a pytree: real and complex leaves carry gradients, others (counters,
    random keys) do not. Of one agent, obs is `(obs_dim,)`, the action `(act_dim,)` and the reward a
    scalar; with `agents` all three have the agents' axis in front. Randomness in `step` needs a key
    in the state. The time limit is `max_steps`, never `terminated`.

    Tensors and JAX's arrays share their memory. With `differentiable=True` the graph of a step is
    one node, whose backward pass is the vector-Jacobian product of `step`; it keeps nothing but the
    step's arguments. Where a copy's product is not finite, it is 0 and counted in `gradient_guard`.
    Without, a step costs the forward pass only, and `LearnedDiffWrapper` learns gradients. A `step`
    that JAX cannot differentiate is refused when gradients are asked for.

    Each copy has its own key, `jax.random.PRNGKey` of its seed in `env_seeds(seed, num_envs)`; each
    of its resets does `key, own = split(key)` and takes `own`. The first reset and step compile, as
    does the first backward pass; compiled functions are shared by all envs made of the same two
    functions and kept on disk (`JAX_COMPILATION_CACHE_DIR`).

    Example:
        >>> import jax
        >>> def reset(key):
        ...     state = {"pos": jax.random.uniform(key, (2,))}
        ...     return state, state["pos"]
        >>> def step(state, action):
        ...     pos = state["pos"] + 0.1 * action
        ...     return {"pos": pos}, pos, -(pos**2).sum(), False
        >>> env = JaxEnv(reset, step, act_dim=2, num_envs=64, differentiable=True, max_steps=50)
    """

    no_gradient_advice: ClassVar[str] = ""
    """Ends the message about a step that JAX cannot differentiate."""

    def __init__(
        self,
        reset: Reset,
        step: Step,
        *,
        act_dim: int,
        num_envs: int = 64,
        agents: Sequence[str] | None = None,
        action_limit: float = 1.0,
        params: Any = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
        differentiable: bool = False,
        max_steps: int | None = None,
    ) -> None:
        """Trace the functions.

        Args:
            reset: key to state and obs.
            step: state and action to state, obs, reward and terminated.
            act_dim: features of one agent's action.
            num_envs: copies that step together.
            agents: one name per agent; None for one agent of which the functions know nothing.
            action_limit: actions are clamped to [-action_limit, action_limit].
            params: a pytree of arrays that both functions take as their last argument, such as
                masses: other values need no new compilation. None if they take none.
            seed: of the first reset without one.
            device: of all tensors; JAX computes there.
            differentiable: keep autograd's graph.
            max_steps: steps after which an episode is truncated; None for never.

        Raises:
            UsageError: a size is out of range, a function cannot be compiled or returns what it
                should not, `step` has no gradient though one is asked for, or JAX cannot reach the
                device.
        """
        if act_dim < 1:
            raise UsageError(f"act_dim is {act_dim}; at least 1 is needed")
        if not 0 < action_limit < float("inf"):
            raise UsageError(f"action_limit is {action_limit}; a finite number above 0 is needed")
        names = ["agent"] if agents is None else list(agents)
        rows = Rows(agents=len(names), act_dim=act_dim, single=agents is None)
        device = usable_device(device)
        name = type(self).__name__
        self._simulation = simulation = Simulation(name, reset, step, rows, params, device)
        super().__init__(
            num_envs=num_envs,
            agents=names,
            observation_space=Box(-np.inf, np.inf, (len(names), simulation.obs_dim), np.float32),
            action_space=Box(-action_limit, action_limit, (len(names), act_dim), np.float32),
            device=device,
            gradients=GRADIENTS if differentiable else (),
            max_steps=max_steps,
        )
        self._seed: int | None = seed
        self._keys: Any = None
        self._moving: list[Tensor] = []
        self._rest: list[Any] = []
        self._obs: Tensor = torch.empty(0)
        if differentiable:
            simulation.check_gradient(num_envs, self.no_gradient_advice)

    @property
    def raw_state(self) -> Any:
        """The state of all copies as JAX arrays, an env axis in front; to look at."""
        return self._simulation.whole(self._moving, self._rest)

    # --- the env protocol -------------------------------------------------------------------------

    def _reset_all(self, seed: int | None) -> Tensor:
        if seed is None and self._keys is None:
            seed = self._seed
        if seed is not None:
            self._keys = random_keys(env_seeds(seed, self.num_envs), self._simulation.device)
        self._keys, self._moving, self._rest, self._obs = self._simulation.start(self._keys)
        return self._obs

    def _reset_where(self, mask: Tensor) -> Tensor:
        keys, fresh, self._rest, obs = self._simulation.restart(mask, self._keys, self._rest)
        self._keys = keys
        pairs = zip(fresh, self._moving, strict=True)
        self._moving = [_chosen(mask, one, other) for one, other in pairs]
        self._obs = _chosen(mask, obs, self._obs)
        return self._obs

    def _advance(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        with torch.set_grad_enabled(torch.is_grad_enabled() and bool(self.gradients)):
            after = self._simulation.advance(self._moving, action, self._rest, self.gradient_guard)
        self._moving, self._obs, reward, self._rest, terminated = after
        return self._obs, reward, terminated

    def detach(self) -> None:
        """Detach the state and the current observation from their graph."""
        self._moving = [leaf.detach() for leaf in self._moving]
        self._obs = self._obs.detach()
        if self._current is not None:
            self._current = self._current.detach()

    @property
    def native_gradients(self) -> frozenset[str]:
        """Both: of dynamics and of reward."""
        return GRADIENTS

    def enable_gradients(self, *kinds: str) -> None:
        """Keep the graph, from the next step on.

        Raises:
            UsageError: JAX cannot differentiate `step`.
        """
        self._simulation.check_gradient(self.num_envs, self.no_gradient_advice)
        self.gradients = GRADIENTS

    def disable_gradients(self) -> None:
        """Keep no graph from the next step on."""
        self.gradients = frozenset()

    def _why_not_copied(self) -> str:
        return "its functions are compiled by JAX for this process"

    def _save(self) -> State:
        return {
            "keys": saved(self._keys),
            "moving": [leaf.detach().clone() for leaf in self._moving],
            "rest": [saved(leaf) for leaf in self._rest],
            "obs": self._obs.detach().clone(),
        }

    def _restore(self, state: State) -> None:
        self._rest = self._simulation.restored(state["moving"], state["rest"], self.device)
        self._keys = to_jax(state["keys"].to(self.device, copy=True))
        self._moving = [leaf.to(self.device, copy=True) for leaf in state["moving"]]
        self._obs = state["obs"].to(self.device, copy=True)


def _chosen(mask: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """Return rows of `one` where `mask` (env,) is set, else of `other`."""
    return torch.where(mask.view(-1, *[1] * (one.dim() - 1)), one, other)

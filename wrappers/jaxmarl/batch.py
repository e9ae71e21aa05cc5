"""Copies of a JaxMARL env as compiled functions of JAX arrays, and those arrays as tensors."""

from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces

from diffsurrogate.errors import UsageError
from diffsurrogate.wrappers.external.agent_rows import Layout
from diffsurrogate.wrappers.jax.arrays import (
    Array,
    is_key,
    jax_device,
    restored,
    saved,
    settled,
    to_jax,
)
from diffsurrogate.wrappers.jaxmarl.library import CoinGame, jax, jnp
from diffsurrogate.wrappers.jaxmarl.time_limit import without_limit


class Batch:
    """Copies of an env that reset and step together, compiled at the first call.

    Every copy has its own random key, of which each reset and each step splits one off
    (`key, own = jax.random.split(key)`), so that its future does not depend on the others'.
    """

    def __init__(
        self, raw: Any, num_envs: int, device: torch.device, *, state: bool = False
    ) -> None:
        """Read what a JaxMARL `MultiAgentEnv` says of itself, without computing anything.

        Raises:
            UsageError: JAX cannot reach the device, the env is not what the adapter supports, or it
                has no global state.
        """
        self.raw, self.name, self.num_envs = raw, type(raw).__name__, num_envs
        self.device = jax_device(device)
        self._twin = without_limit(raw)
        key = jax.eval_shape(lambda: jax.random.PRNGKey(0))
        obs, self._state = self._traced("reset", jax.eval_shape, raw.reset, key)
        spaces_of = _Spaces(self.name, raw, obs)
        self.layout = Layout(spaces_of)
        self._mask_of = self._find_masks()
        self._why_no_world = ""
        self._world_of, size = self._find_world(obs)
        self.offers_state = size > 0
        if state and not size:
            raise UsageError(
                f"{self.name} has no global state, which state=True asks for: neither a method "
                'get_world_state(state) that works nor a "world_state" among its observations; '
                f"leave it out{self._why_no_world}"
            )
        self.layout = Layout(
            spaces_of, masks_in_infos=self._mask_of is not None, state_size=size if state else 0
        )
        self.restart = jax.jit(jax.vmap(self._restart_one))
        """Resets the copies where `ended` (env,) is set; takes that and what `start` returns, and
        returns the same of all."""
        self.advance = jax.jit(jax.vmap(self._advance_one))
        """Steps every copy; takes keys, state and actions (env, agent, act_dim) in the box. Returns
        keys, state, obs (env, agent, obs_dim), reward (env, agent), terminated and truncated (env,)
        by the env itself, and which agents are alive (env, agent)."""
        keys, states = jax.tree.map(self._batched, (key, self._state))
        self._started = jax.eval_shape(jax.vmap(self._start_one), keys)
        rows = jax.ShapeDtypeStruct((num_envs, *self.layout.action_box.shape), jnp.float32)
        _, after, *_ = self._traced("step_env", self.advance.eval_shape, keys, states, rows)
        self._check_state(states, after)

    # --- what the env does ------------------------------------------------------------------------

    def start(self, keys: Array) -> tuple[Array, Any, Array]:
        """Reset every copy.

        Returns:
            keys, state and obs (env, agent, obs_dim).
        """
        _, *nothing = jax.tree.map(_zeros, self._started)
        ended = np.ones(self.num_envs, dtype=bool)
        return self.restart(*jax.device_put((ended, keys, *nothing), self.device))

    def _start_one(self, key: Array) -> tuple[Array, Any, Array]:
        key, own = jax.random.split(key)
        obs, state = self.raw.reset(own)
        return key, state, self._observations(obs, state)

    def _restart_one(self, ended: Array, *before: Any) -> tuple[Array, Any, Array]:
        fresh = self._start_one(before[0])
        return jax.tree.map(lambda one, other: jax.lax.select(ended, one, other), fresh, before)

    def _advance_one(self, key: Array, state: Any, rows: Array) -> tuple[Any, ...]:
        key, own = jax.random.split(key)
        actions = self._actions(rows)
        obs, after, rewards, dones, _ = self.raw.step_env(own, state, actions)
        over = self._scalar(dones, "__all__", "dones").astype(bool)
        terminated = over
        if self._twin is not None:  # XLA merges what both compute
            _, _, _, twin_dones, _ = self._twin.step_env(own, state, actions)
            terminated = over & twin_dones["__all__"].astype(bool)
        elif isinstance(self.raw, CoinGame):  # nothing but time ends it
            terminated = jnp.zeros_like(over)
        reward = [self._scalar(rewards, agent, "rewards") for agent in self.layout.agents]
        gone = [jnp.asarray(dones.get(agent, False)).astype(bool) for agent in self.layout.agents]
        return (
            key,
            jax.tree.map(settled, after),
            self._observations(obs, after),
            jnp.stack([value.astype(jnp.float32) for value in reward]),
            terminated,
            over & ~terminated,
            ~jnp.stack(gone),
        )

    def _observations(self, obs: dict[Any, Any], state: Any) -> Array:
        """Return rows (agent, obs_dim): observation, padded; action mask; global state."""
        layout, width = self.layout, max(self.layout.observation_sizes)
        rows = [_flat(obs[agent]) for agent in layout.agents]
        sizes = [row.size for row in rows]
        if sizes != layout.observation_sizes:
            raise UsageError(
                f"{self.name}: step_env() gives the agents {sizes} observed numbers, reset() "
                f"{layout.observation_sizes}; give as many in both"
            )
        rows = [jnp.pad(row, (0, width - row.size)) for row in rows]
        parts = [jnp.stack(rows)]
        if layout.action_mask_slice is not None:
            masks, most = self._mask_of(state), layout.action_box.shape[1]
            rows = [masks[agent].astype(jnp.float32) for agent in layout.agents]
            parts.append(jnp.stack([jnp.pad(row, (0, most - row.size)) for row in rows]))
        if layout.global_state_slice is not None:
            world = _flat(self._world_of(obs, state))
            parts.append(jnp.broadcast_to(world, (len(layout.agents), world.size)))
        return jnp.concatenate(parts, axis=1)

    def _actions(self, rows: Array) -> dict[Any, Array]:
        """Return what the env takes for one copy's `rows` (agent, act_dim)."""
        layout = self.layout
        actions = {}
        for index, agent in enumerate(layout.agents):
            own = rows[index, : layout.action_sizes[index]]
            space = self.raw.action_space(agent)
            if layout.discrete:
                actions[agent] = own.argmax().astype(getattr(space, "dtype", jnp.int32))
            else:
                actions[agent] = own.reshape(layout.action_spaces[index].shape)
        return actions

    def _find_masks(self) -> Any:
        """Return the env's function from a state to masks by agent, None if it has none."""
        for name in ("get_avail_actions", "get_legal_moves"):  # the latter is Hanabi's
            function = getattr(self.raw, name, None)
            if function is None or not self.layout.discrete:
                continue
            try:
                masks = jax.eval_shape(function, self._state)
            except NotImplementedError:
                continue
            for agent, size in zip(self.layout.agents, self.layout.action_sizes, strict=True):
                shape = getattr(masks.get(agent), "shape", None)
                if shape != (size,):
                    raise UsageError(
                        f"{self.name}: {name}() gives {agent} a mask of shape {shape}; ({size},) "
                        "is needed, one number per choice for every agent"
                    )
            return function
        return None

    def _find_world(self, obs: dict[Any, Any]) -> tuple[Any, int]:
        """Return a function of observations and state to the global state, and its size; or 0."""
        function = getattr(self.raw, "get_world_state", None)
        ways: list[Any] = [lambda obs, _: obs["world_state"]] if "world_state" in obs else []
        if function is not None:
            ways.insert(0, lambda _, state: function(state))
        for way in ways:
            try:
                world = jax.eval_shape(way, obs, self._state)
            except Exception as error:  # of any kind: some envs have one that does not work
                self._why_no_world = f"; get_world_state() raises {type(error).__name__}: {error}"
                continue
            return way, sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(world))
        return None, 0

    # --- saving -----------------------------------------------------------------------------------

    def save(self, keys: Array, state: Any) -> dict[str, Any]:
        """Return copies as tensors, random keys inside the state included."""
        return {"keys": saved(keys), "state": [saved(leaf) for leaf in jax.tree.leaves(state)]}

    def load(self, state: dict[str, Any], device: torch.device) -> tuple[Array, Any]:
        """Return keys and state of which `save` was called.

        Raises:
            UsageError: they are of another env, or of the same made differently.
        """
        leaves, shape = jax.tree.flatten(jax.tree.map(self._batched, self._state))
        needed = [jax.eval_shape(jax.random.key_data, x) if is_key(x) else x for x in leaves]
        given = state["state"]
        if [tuple(x.shape) for x in given] != [x.shape for x in needed]:
            raise UsageError(
                f"the state is not one of {self.num_envs} copies of this {self.name}: its arrays "
                "have other shapes; make the env as it was when the state was taken"
            )
        arrays = [
            restored(tensor, leaf, device) for tensor, leaf in zip(given, leaves, strict=True)
        ]
        return to_jax(state["keys"].to(device, copy=True)), jax.tree.unflatten(shape, arrays)

    # --- refusals ---------------------------------------------------------------------------------

    def _batched(self, shape: Any) -> Any:
        return jax.ShapeDtypeStruct((self.num_envs, *shape.shape), shape.dtype)

    def _traced(self, method: str, function: Any, *args: Any) -> Any:
        try:
            return function(*args)
        except UsageError:
            raise
        except Exception as error:
            raise UsageError(
                f"{self.name}: {method}() cannot be compiled by JAX: {type(error).__name__}: "
                f"{error}; it must be a function of JAX arrays alone"
            ) from error

    def _scalar(self, values: Any, key: Any, field: str) -> Array:
        if not isinstance(values, dict) or key not in values:
            raise UsageError(f"{self.name}: the {field} of step_env() have no entry for {key!r}")
        value = jnp.asarray(values[key])
        if value.shape:
            raise UsageError(
                f"{self.name}: the {field} of {key!r} have shape {value.shape}; one number is "
                "needed, the env is mapped over its copies here"
            )
        return value

    def _check_state(self, before: Any, after: Any) -> None:
        shapes = [jax.tree.map(lambda x: (x.shape, x.dtype), state) for state in (before, after)]
        if shapes[0] != shapes[1]:
            raise UsageError(
                f"{self.name}: the state after step_env() is not shaped as that after reset(): "
                f"{shapes[1]} and {shapes[0]}; give its arrays the same shapes and dtypes in both"
            )


class _Spaces:
    """A JaxMARL env's agents and spaces as those of a PettingZoo env, which `Layout` reads.

    Observations are of the size that they have, not of the declared one: JaxMARL declares some
    wrongly. Agents must be named in the dicts that the env gives.
    """

    def __init__(self, name: str, raw: Any, obs: Any) -> None:
        self.metadata = {"name": name}
        self.possible_agents = list(raw.agents)
        self._name, self._raw, self._obs = name, raw, obs
        missing = [
            agent for agent in self.possible_agents if not isinstance(obs, dict) or agent not in obs
        ]
        if missing:
            raise UsageError(
                f"{name}: reset() gives no observation for {missing}, which agents lists; a dict "
                "by agent is needed"
            )
        kinds = [type(self.action_space(agent)) for agent in self.possible_agents]
        if len(set(kinds)) > 1:
            raise UsageError(
                f"{name}: some agents have Discrete actions and others a Box; all agents must have "
                "the same kind, make it so in a subclass of the env"
            )

    def observation_space(self, agent: Any) -> gymnasium.Space[Any]:
        """Return the box of an agent's observation, unbounded if the declared one does not fit."""
        leaves = jax.tree.leaves(self._obs[agent])
        size = sum(int(np.prod(leaf.shape)) for leaf in leaves)
        declared = self._raw.observation_spaces.get(agent)
        low, high = np.full(size, -np.inf, np.float32), np.full(size, np.inf, np.float32)
        if len(leaves) == 1 and hasattr(declared, "low") and declared.shape == leaves[0].shape:
            low, high = (
                np.broadcast_to(np.asarray(end, np.float32), declared.shape).flatten()
                for end in (declared.low, declared.high)
            )
        return spaces.Box(low, high, dtype=np.float32)

    def action_space(self, agent: Any) -> gymnasium.Space[Any]:
        """Return an agent's action space.

        Raises:
            UsageError: it is neither a box of floats nor one choice.
        """
        space = self._raw.action_space(agent)
        if hasattr(space, "n"):
            return spaces.Discrete(int(space.n))
        if hasattr(space, "low") and jnp.issubdtype(space.dtype, jnp.floating):
            bounds = [np.asarray(end, dtype=np.float32) for end in (space.low, space.high)]
            low, high = (np.broadcast_to(end, space.shape).copy() for end in bounds)
            return spaces.Box(low, high, dtype=np.float32)
        raise UsageError(
            f"{self._name}: the actions of agent {agent!r} are a {type(space).__name__}, which is "
            "not supported; only a Box of floats and Discrete are, make them one of these in a "
            "subclass of the env"
        )


def _flat(obs: Any) -> Array:
    """Return an agent's observation, an array or nested dicts of arrays, as one float vector."""
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(obs)]
    return jnp.concatenate([leaf.ravel().astype(jnp.float32) for leaf in leaves])


def _zeros(leaf: Any) -> Array:
    if not is_key(leaf):
        return np.zeros(leaf.shape, leaf.dtype)
    data = jax.eval_shape(jax.random.key_data, leaf)
    return jax.random.wrap_key_data(jnp.zeros(data.shape, data.dtype), impl=leaf.dtype)

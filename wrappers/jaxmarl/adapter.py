"""JaxMARL's envs as multi-agent vector envs; `ids.py` makes them by id.

JAX and JaxMARL are imported in `library.py` only; install them as the extra `jaxmarl`.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffsurrogate.envs.env import State
from diffsurrogate.envs.registry import usable_device
from diffsurrogate.wrappers.external.adapter import ExternalEnv, check_options, env_seeds
from diffsurrogate.wrappers.jax.arrays import random_keys, to_jax, to_torch
from diffsurrogate.wrappers.jaxmarl.batch import Batch
from diffsurrogate.wrappers.jaxmarl.time_limit import time_limit


class JaxMARLEnv(ExternalEnv):
    """Copies of a JaxMARL env, compiled and stepped together by JAX.

    Values are the raw env's own, as float32; tensors and JAX's arrays share their memory.
    Observations are flattened; agents whose observations or actions are smaller than others' are
    padded with zeros (`observation_mask`, `valid_action_dims`), and padded actions never reach the
    raw env. `Discrete(K)` actions become one-hot rows (`discrete_actions`), of which the raw env
    gets the largest of the agent's own K entries.

    **Ends.** JaxMARL says only that an episode is over. It was *truncated* if the env would have
    gone on with a larger `max_steps` (its attribute, or that of the env in its `_env`), else it
    *terminated*; both flags are set where it was decided in its last step. An env of yours whose
    time limit is kept elsewhere terminates at it: give a `max_steps` below it. Agents that are done
    before the others keep what the env gives them (SMAX pays the dead their team's reward and shows
    them zeros), and policies learn nothing from what they are said to do (`alive_mask`).

    **Choices that are closed, and the global state.** Where the env says which choices an agent has
    now (`get_avail_actions`: SMAX; Hanabi's `get_legal_moves`), observations end with it
    (`action_mask_slice`). With `state=True` the global state follows (`global_state_slice`): what
    `get_world_state(state)` gives, or else the observation "world_state".

    **Randomness.** Each copy has its own key: `jax.random.PRNGKey` of its seed in
    `env_seeds(seed, num_envs)`. Each reset and step of a copy does `key, own = split(key)` and
    gives `own` to the raw env. The state can be saved, keys included: a training run that is
    resumed goes on exactly.

    The first reset and the first step compile, which takes seconds. On a GPU JAX takes three
    quarters of the memory unless `XLA_PYTHON_CLIENT_PREALLOCATE=false` is set beforehand.

    Example:
        >>> from diffsurrogate import make
        >>> env = make("jaxmarl/MPE_simple_spread_v3", num_envs=64, action_type="Continuous")
        >>> obs, _ = env.reset(seed=0)
        >>> obs.shape
        torch.Size([64, 3, 18])
    """

    library = "JaxMARL"
    shares_simulator = False
    drawn_if = None

    def __init__(
        self,
        raw: Any,
        *,
        num_envs: int = 64,
        max_steps: int | None = None,
        seed: int | None = None,
        device: torch.device | str = "cpu",
        state: bool = False,
        check_bounds: bool = True,
    ) -> None:
        """Copy `raw`, which holds no state and may be used elsewhere.

        Args:
            raw: a JaxMARL `MultiAgentEnv`.
            num_envs, max_steps, seed, device, state, check_bounds: see `ExternalEnv`; without a
                seed one is drawn, and JAX computes on the device.

        Raises:
            UsageError: the env does not give dicts by agent, its actions are neither boxes nor
                choices, it cannot be compiled, it has no global state though one is asked for, or
                JAX cannot reach the device.
        """
        check_options(type(raw).__name__, num_envs, False, max_steps, None)
        self._batch = batch = Batch(raw, num_envs, usable_device(device), state=state)
        layout = batch.layout
        super().__init__(
            num_envs=num_envs,
            agents=layout.names,
            observation_space=layout.observation_box,
            action_space=layout.action_box,
            limits=(time_limit(raw),),
            max_steps=max_steps,
            seed=seed,
            device=device,
            check_bounds=check_bounds,
        )
        layout.describe(self)
        self.offers_state = batch.offers_state
        self.raw = raw
        """The raw env."""
        self._step_checks.name = batch.name
        self._keys: Any = None
        self._state: Any = None
        self._obs: Any = None
        self._cut: Any = None
        self._there = torch.ones(num_envs, len(layout.names), dtype=torch.bool, device=self.device)

    # --- the env protocol -------------------------------------------------------------------------

    @property
    def alive_mask(self) -> Tensor | None:
        """(env, agent) bool: agents that are not done before the others; None where all go on."""
        return None if bool(self._there.all()) else self._there

    def _reset_all(self, seed: int | None) -> Tensor:
        self._there = torch.ones_like(self._there)
        if seed is not None or self._keys is None:
            seed = self._seed_of_reset(seed)
            if seed is None:
                seed = int(np.random.SeedSequence().generate_state(1)[0])
            self._keys = random_keys(env_seeds(seed, self.num_envs), self._batch.device)
        self._keys, self._state, self._obs = self._batch.start(self._keys)
        return to_torch(self._obs)

    def _reset_where(self, mask: Tensor) -> Tensor:
        self._there = self._there | mask.unsqueeze(-1)
        before = (self._keys, self._state, self._obs)
        self._keys, self._state, self._obs = self._batch.restart(to_jax(mask), *before)
        return to_torch(self._obs)

    def _advance(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        after = self._batch.advance(self._keys, self._state, to_jax(action))
        self._keys, self._state, self._obs, reward, terminated, self._cut, there = after
        self._there = to_torch(there)
        return to_torch(self._obs), to_torch(reward), to_torch(terminated)

    def _cut_short(self) -> Tensor:
        return to_torch(self._cut)

    def _why_not_copied(self) -> str:
        return "its functions are compiled by JAX for this process"

    def _save(self) -> State:
        return self._batch.save(self._keys, self._state) | {"alive_mask": self._there.clone()}

    def _restore(self, state: State) -> None:
        self._keys, self._state = self._batch.load(state, self.device)
        self._there = state["alive_mask"].to(self.device, copy=True)
        rows = (self.num_envs, self.num_agents, self.obs_dim)
        self._obs = to_jax(torch.zeros(rows, device=self.device))  # until the next step

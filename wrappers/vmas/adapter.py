"""VMAS scenarios as multi-agent vector envs (ids `vmas/<scenario>`), gradients and all.

VMAS is GPLv3 and is imported here and in `scenarios/` only; install it as the extra `vmas`.
"""

import contextlib
import io
from collections.abc import Iterator
from typing import Any

import cloudpickle
import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from torch import Tensor

from diffsurrogate.config import require_whole
from diffsurrogate.envs.env import MultiAgentVectorEnv, State
from diffsurrogate.envs.modes import check_defaults
from diffsurrogate.errors import UsageError
from diffsurrogate.wrappers.external.infos import of_tensors
from diffsurrogate.wrappers.external.spaces import flatten, padded_box, per_agent, size
from diffsurrogate.wrappers.vmas.catalogue import (
    check_arguments,
    differentiable_parts,
    is_ours,
    load_scenario,
    made_of,
    scenario_names,
    why_not,
)
from diffsurrogate.wrappers.vmas.random_stream import Stream
from diffsurrogate.wrappers.vmas.render import draw_world
from diffsurrogate.wrappers.vmas.saved_tree import load_tree, save_tree
from diffsurrogate.wrappers.vmas.tensor_tree import (
    Snapshot,
    copy_tree,
    detach_tree,
    own_copies,
)

try:
    with contextlib.redirect_stderr(io.StringIO()):  # legacy gym prints an advert on import
        from vmas.simulator.environment import Environment
        from vmas.simulator.environment.environment import local_seed
        from vmas.simulator.scenario import BaseScenario
except ImportError as error:
    raise UsageError(
        "VMAS scenarios need VMAS, an optional extra because it is licensed under the GPLv3 (this "
        f'package is not): pip install "diffsurrogate[vmas]" ({error})'
    ) from error


class _Environment(Environment):  # type: ignore[misc]
    """VMAS's env, except that seeding it leaves CUDA's generators alone."""

    def _seed(self, seed: int | None = None) -> list[int]:
        Stream(seed or 0, "cpu").install_globally()
        return [seed or 0]


class VmasEnv(MultiAgentVectorEnv):
    """A raw VMAS `Environment` as a multi-agent vector env.

    Values are VMAS's own, bit for bit. Ended envs of VMAS's scenarios are reset together, without
    a Python loop: the whole world is reset on copies and merged, so that envs that go on keep
    their state, their graph and what is saved for backward. What a scenario draws once for all
    envs (the goal landmark of `simple_reference`, say) is redrawn only when all envs are reset at
    once. A scenario of your own may keep its state in any way, so there VMAS's `reset_at(i)` is
    called for each env that ended, or `reset()` if all did.

    Agents with smaller observations or actions than others are padded with zeros; see
    `observation_mask` and `valid_action_dims`. Padded actions never reach VMAS. Observations that
    are dicts are flattened in the order of the dict. Discrete actions become one-hot rows
    (`discrete_actions`), of which VMAS gets the largest of the agent's own.
    """

    shares_simulator = True
    metadata: dict[str, Any] = {  # noqa: RUF012
        "autoreset_mode": AutoresetMode.SAME_STEP,
        "render_modes": ["rgb_array"],
        "render_fps": 10,
    }

    def __init__(self, raw: Environment, *, max_steps: int | None = None) -> None:
        """Take over `raw`, which must not be used directly from now on.

        Args:
            raw: a VMAS env; `grad_enabled=True` decides `gradients`. Through choices pass none.
            max_steps: steps until truncation; None for what `raw` was made with.

        Raises:
            UsageError: an agent makes several choices a step, or there is no agent to control.
        """
        if raw.multidiscrete_actions and not raw.continuous_actions:
            raise UsageError(
                "agents of this VMAS env make several choices a step; make it with "
                "multidiscrete_actions=False, where one choice says all"
            )
        if not raw.agents:
            raise UsageError("this VMAS scenario has no agent to control; give n_agents=1 or more")
        observation_sizes = [size(space) for space in per_agent(raw.observation_space, raw)]
        boxes = spaces = per_agent(raw.action_space, raw)
        continuous = raw.continuous_actions
        if not continuous:
            boxes = [gymnasium.spaces.Box(0.0, 1.0, (int(one.n),), np.float32) for one in spaces]
        self.action_sizes = [box.shape[0] for box in boxes]
        shape = (len(boxes), max(observation_sizes))
        super().__init__(
            num_envs=raw.num_envs,
            agents=[agent.name for agent in raw.agents],
            observation_space=gymnasium.spaces.Box(-np.inf, np.inf, shape, np.float32),
            action_space=padded_box(boxes, floor=-1.0 if continuous else 0.0),
            device=raw.device,
            gradients=differentiable_parts(raw.scenario) if raw.grad_enabled and continuous else (),
            max_steps=raw.max_steps if max_steps is None else max_steps,
        )
        raw.max_steps = None  # counted here, as truncation; VMAS would call it done
        for agent, (obs_size, box) in enumerate(zip(observation_sizes, boxes, strict=True)):
            self.observation_mask[agent, obs_size:] = False
            self.valid_action_dims[agent, box.shape[0] :] = False
        self.discrete_actions = not continuous
        self.raw = raw
        self.render_mode = "rgb_array"
        self._stream = Stream.branch(Environment.vmas_random_state, self.device)
        self._stepped = False
        self._merges = is_ours(raw.scenario) and type(raw) in (Environment, _Environment)
        self._told: dict[str, Tensor] = {}
        self._next_obs = torch.zeros(self.num_envs, *shape, device=self.device)
        self._roots = {
            "agents": raw.world._agents,  # first, so that entities have one name in every episode
            "landmarks": raw.world._landmarks,
            "world": raw.world,
            "scenario": raw.scenario,
        }
        if type(raw) not in (Environment, _Environment):
            self._roots["env"] = raw  # a user's own

    @classmethod
    def from_wrapper(cls, wrapped: Any, **options: Any) -> "VmasEnv":
        """Adapt the raw env inside one that VMAS or TorchRL wrapped for another library.

        Values are the raw env's: what such a wrapper does to them (NumPy arrays, means of rewards
        over agents) is left out.
        """
        return cls(wrapped._env, **options)

    def __getstate__(self) -> dict[str, Any]:
        # by value: VMAS's scenarios are classes without a module, and its agents hold lambdas
        return {"pickled": cloudpickle.dumps(vars(self))}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(cloudpickle.loads(state["pickled"]))
        self.detach()  # a copy has no graph

    @property
    def scenario(self) -> BaseScenario:
        """The VMAS scenario."""
        return self.raw.scenario

    @property
    def native_gradients(self) -> frozenset[str]:
        """What VMAS could differentiate in this scenario, whatever its actions are."""
        return differentiable_parts(self.scenario)

    def enable_gradients(self, *kinds: str) -> None:
        """Differentiate the simulator from the next step on.

        Args:
            kinds: what is needed: any of dynamics, reward.

        Raises:
            UsageError: the scenario has no such gradient.
        """
        for kind in kinds:
            if kind not in ("dynamics", "reward"):
                raise UsageError(f"there is no gradient of {kind!r}; ask for dynamics or reward")
            reason = why_not(self.scenario, kind)
            if self.discrete_actions:
                reason = "its actions are choices"
            if reason is not None:
                raise UsageError(f"VMAS has no {kind} gradient of use for this scenario: {reason}")
        self.raw.grad_enabled = True
        self.gradients = differentiable_parts(self.scenario)

    def disable_gradients(self) -> None:
        """Keep no graph from the next step on, and none of the last."""
        self.raw.grad_enabled = False
        self.gradients = frozenset()
        self.detach()

    def detach(self) -> None:
        """Cut the graph everywhere: world, scenario, sensors, controllers, current observation."""
        with torch.inference_mode(False):
            detach_tree(self._roots)
        if self._current is not None:
            self._current = self._current.detach()
        self._next_obs = self._next_obs.detach()

    def max_return(self) -> Tensor | None:
        """Return the scenario's `max_return()` (env,), summed over agents, if it has one."""
        if not hasattr(self.scenario, "max_return"):
            return None
        value: Tensor = self.scenario.max_return()
        return value.detach().clone()

    def render(self, env_indices: list[int] | None = None) -> tuple[np.ndarray, ...]:
        """Draw all envs or some, `(height, width, 3)` uint8 each, without a display or OpenGL."""
        chosen = range(self.num_envs) if env_indices is None else env_indices
        with torch.inference_mode(False), torch.no_grad():  # it can create attributes
            return tuple(draw_world(self.scenario, index) for index in chosen)

    def _reset_all(self, seed: int | None) -> Tensor:
        if seed is not None:
            self._stream = Stream(seed, self.device)
        with self._simulating(keep_graph=False):
            self._spare_the_graph()
            return self._stack_observations(self.raw.reset())

    def _spare_the_graph(self) -> None:
        """Let a reset write in place, though backward may still need what is there."""
        if self._merges or self.gradients:
            copy_tree(self._roots)

    def _reset_where(self, mask: Tensor) -> Tensor:
        if not self._merges:
            return self._reset_one_by_one(mask)
        before = Snapshot(self._roots)
        with self._simulating(keep_graph=False):
            before.map(lambda tensor: tensor.detach().clone())
            with local_seed(Environment.vmas_random_state):
                self.scenario.env_reset_world_at(None)
            (fresh,) = self.raw.get_from_scenario(
                get_observations=True, get_rewards=False, get_infos=False, get_dones=False
            )
            obs = self._stack_observations(fresh)
        if bool(mask.all()):
            return obs
        self._merge(mask, before)
        return torch.where(mask[:, None, None], obs, self._next_obs)

    def _reset_one_by_one(self, mask: Tensor) -> Tensor:
        if bool(mask.all()):
            return self._reset_all(None)
        with self._simulating(keep_graph=bool(self.gradients)):
            if self.gradients:
                own_copies(self._roots)
            for index in mask.nonzero().flatten().tolist():
                self.raw.reset_at(index, return_observations=False)
            (fresh,) = self.raw.get_from_scenario(
                get_observations=True, get_rewards=False, get_infos=False, get_dones=False
            )
            obs = self._stack_observations(fresh).detach()
        return torch.where(mask[:, None, None], obs, self._next_obs)

    def _merge(self, mask: Tensor, before: Snapshot) -> None:
        """Put back what was `before`, but for the envs in `mask` take what there is now."""
        after = Snapshot(self._roots).tensors()
        merged: dict[tuple[int, int], Tensor] = {}  # what was one tensor stays one

        def merge(path: str, old: Tensor) -> Tensor:
            new = after.get(path)
            if new is None or not self._is_per_env(path, old, new):
                return old
            pair = (id(old), id(new))
            if pair not in merged:
                merged[pair] = torch.where(mask.view(-1, *[1] * (old.ndim - 1)), new, old)
            return merged[pair]

        before.put_back()
        before.write(merge)

    def _is_per_env(self, path: str, old: Tensor, new: Tensor) -> bool:
        if path.endswith("._color") and old.ndim == 1:
            return False  # (red, green, blue), even if there are 3 envs
        return old.shape == new.shape and old.ndim > 0 and old.shape[0] == self.num_envs

    def _advance(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        self._stepped = True
        with self._simulating(keep_graph=bool(self.gradients)):
            sizes = enumerate(self.action_sizes)
            parts = [action[:, agent, :act_dim].clone() for agent, act_dim in sizes]
            if self.discrete_actions:
                parts = [part.argmax(1, keepdim=True) for part in parts]
            obs, reward, terminated, *_, infos = self.raw.step(parts)
            self._told = self._mean_of_agents(infos)
            rewards = reward.values() if isinstance(reward, dict) else reward
            self._next_obs = self._stack_observations(obs)
            per_agent = [
                self._one_per_env(*pair) for pair in zip(self.agents, rewards, strict=True)
            ]
            return self._next_obs, torch.stack(per_agent, dim=1), terminated.to(torch.bool)

    def _one_per_env(self, agent: str, reward: Tensor) -> Tensor:
        if reward.numel() != self.num_envs:
            raise UsageError(
                f"{type(self.scenario).__name__}.reward of agent {agent!r} has shape "
                f"{tuple(reward.shape)}; one number per env, (env,) = ({self.num_envs},), is needed"
            )
        return reward.reshape(self.num_envs).to(torch.float32)

    def _report(self) -> dict[str, Tensor]:
        return self._told

    def _mean_of_agents(self, infos: Any) -> dict[str, Tensor]:
        """Return the numbers (env,) in VMAS's infos by agent, each the mean over agents."""
        per_agent = infos.values() if isinstance(infos, dict) else infos
        told: dict[str, list[Tensor]] = {}
        for info in filter(None, per_agent):
            for name, values in of_tensors(info, self.num_envs).items():
                told.setdefault(name, []).append(values.to(self.device))
        return {name: torch.stack(values).mean(0) for name, values in told.items()}

    def _stack_observations(self, obs: Any) -> Tensor:
        """Return obs `(env, agent, obs_dim)` from VMAS's list or dict of them."""
        rows = [flatten(value) for value in (obs.values() if isinstance(obs, dict) else obs)]
        padded = [torch.nn.functional.pad(row, (0, self.obs_dim - row.shape[1])) for row in rows]
        return torch.stack(padded, dim=1)

    @contextlib.contextmanager
    def _simulating(self, *, keep_graph: bool) -> Iterator[None]:
        """Run VMAS on this env's own random stream, leaving everyone else's as it was.

        Never in inference mode, whose tensors could not be written to by a later step.
        """
        graph = keep_graph and torch.is_grad_enabled()
        with self._stream.used_by_vmas(Environment.vmas_random_state), torch.inference_mode(False):
            with torch.set_grad_enabled(graph):
                yield

    def _save(self) -> State:
        return {
            "num_envs": self.num_envs,
            "tree": save_tree(self._roots),
            "random": self._stream.save(),
        }

    def _restore(self, state: State) -> None:
        if state["num_envs"] != self.num_envs:
            raise UsageError(
                f"the state is of {state['num_envs']} envs, this env has {self.num_envs}; make it "
                f"with num_envs={state['num_envs']}"
            )
        if not self._stepped:  # some attributes exist only after a step
            self._reset_all(seed=0)
            self._advance(self.action_low.expand(self.num_envs, -1, -1))
        with torch.inference_mode(False), torch.no_grad():
            load_tree(
                self._roots,
                state["tree"],
                same_shapes=self._merges,
                in_place=not self._merges and not self.gradients,
            )
        self._stream = Stream.load(state["random"], self.device)


def ids() -> list[str]:
    """Return the names of all VMAS scenarios."""
    return scenario_names()


def make(
    scenario: str | BaseScenario,
    *,
    num_envs: int = 64,
    n_agents: int | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    differentiable: bool = False,
    max_steps: int | None = None,
    continuous_actions: bool = True,
    **scenario_kwargs: Any,
) -> VmasEnv:
    """Make a VMAS scenario.

    Args:
        scenario: name of a VMAS scenario, such as "dispersion", or a `BaseScenario` object.
        num_envs: copies that step together.
        n_agents: agents, where the scenario lets one choose; None for its own default.
        seed: of the env's own random stream.
        device: where VMAS computes.
        differentiable: keep the simulator's own gradients.
        max_steps: steps until truncation; None for never.
        continuous_actions: False for choices: 9 of them, say, for a force in the plane.
        scenario_kwargs: passed on to the scenario.

    Raises:
        UsageError: VMAS has no such scenario, or the scenario no such argument or gradient.
    """
    check_defaults()
    require_whole("num_envs", num_envs, low=1)
    if n_agents is not None:
        require_whole("n_agents", n_agents, low=1)
        scenario_kwargs["n_agents"] = n_agents
    loaded = load_scenario(scenario) if isinstance(scenario, str) else scenario
    check_arguments(loaded, scenario_kwargs)
    if differentiable and not continuous_actions:
        raise UsageError(
            "no gradient passes through choices; leave differentiable=False and learn them with "
            "LearnedDiffWrapper, or leave out continuous_actions=False"
        )
    if differentiable and not differentiable_parts(loaded):
        raise UsageError(
            f"VMAS has no gradients of use for {scenario} ({why_not(loaded, 'dynamics')}). Leave "
            "differentiable=False and learn them with LearnedDiffWrapper."
        )
    stream = Stream(seed, device)
    with stream.used_by_vmas(Environment.vmas_random_state), torch.inference_mode(False):
        with torch.no_grad(), made_of(scenario_kwargs):
            raw = _Environment(
                loaded,
                num_envs=num_envs,
                device=device,
                seed=seed,
                grad_enabled=differentiable,
                continuous_actions=continuous_actions,
                **scenario_kwargs,
            )
    env = VmasEnv(raw, max_steps=max_steps)
    env._stream = stream
    return env

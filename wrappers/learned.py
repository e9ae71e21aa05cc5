"""The wrapper this project exists for: the simulator's numbers, the surrogates' gradients."""

from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import record_function

from diffsurrogate.config import check_same_config
from diffsurrogate.envs.action_space import ActionSpace
from diffsurrogate.envs.env import MultiAgentVectorEnv, Policy, State
from diffsurrogate.envs.modes import check_grad_mode
from diffsurrogate.envs.registry import as_multi_agent
from diffsurrogate.envs.window import (
    Window,
    WindowPolicy,
    check_horizon,
    check_window,
    mask_dead_actions,
    step_of,
)
from diffsurrogate.errors import UsageError
from diffsurrogate.gradients.estimator import (
    GradientChain,
    agreement,
    policy_gradient,
    straight_through,
)
from diffsurrogate.surrogates.config import SurrogateConfig
from diffsurrogate.surrogates.fitting import Surrogates
from diffsurrogate.training.checkpoint import check_finite
from diffsurrogate.wrappers.base import EnvWrapper


class LearnedDiffWrapper(EnvWrapper):
    """Makes an env differentiable by learning a reward model and a dynamics model beside it.

    Every number that comes out is the wrapped env's, bit for bit; only gradients are learned. The
    models train themselves in `fit`, which trainers call with each window they collect.

    Example:
        >>> from diffsurrogate import SHAC, LearnedDiffWrapper, make
        >>> env = LearnedDiffWrapper(make("diffsurrogate/cartpole-swingup", num_envs=4))
        >>> SHAC(env).learn(total_steps=256)  # doctest: +SKIP
    """

    def __init__(
        self,
        env: Any,
        *,
        reward: bool | nn.Module = True,
        dynamics: bool | nn.Module = True,
        config: SurrogateConfig | None = None,
        continuous: Tensor | None = None,
        seed: int = 0,
    ) -> None:
        """Wrap an env.

        Args:
            env: one of ours, or anything `as_multi_agent` knows.
            reward: True to learn a reward model; False to use the env's own reward gradient, which
                runs through its own physics even where the dynamics are learned; or a ready module
                that maps (obs, action, next_obs) to rewards (*batch, agent).
            dynamics: True to learn a world model; False to use the env's own dynamics (SHAC+); or
                a ready module that maps (obs, action) to the next obs, or an `ActionWorldModel`.
            config: models, estimator and training budget; None for the defaults and a model of
                terminations, which is idle until one is seen.
            continuous: (agent, obs_dim) bool, the observation entries a gradient may pass; found
                out from the data if None.
            seed: of the models' initial weights and minibatches.

        Raises:
            UsageError: the env lacks a gradient that `False` asks for.
        """
        if isinstance(env, LearnedDiffWrapper):
            raise UsageError("the env is wrapped already; wrap the env itself (its .env)")
        self.env = as_multi_agent(env)
        env = self.env
        super().__init__(
            num_envs=env.num_envs,
            agents=env.agents,
            observation_space=env.single_observation_space,
            action_space=env.single_action_space,
            device=env.device,
            gradients=("dynamics", "reward"),
            max_steps=env.max_steps,
        )
        self.metadata, self.render_mode = env.metadata, env.render_mode
        self._keep_roles()
        self.config = config or SurrogateConfig(termination=True)
        if dynamics is False:
            _require_native(env, "dynamics")
        if reward is False:
            _require_native(env, "reward", "dynamics")  # it runs through the physics
        self.learns_reward = reward is not False
        self.learns_dynamics = dynamics is not False
        self.surrogates = Surrogates(
            self.config,
            obs_dim=self.obs_dim,
            action_space=ActionSpace(
                self.action_low,
                self.action_high,
                discrete=self.discrete_actions,
                valid=self.valid_action_dims,
            ),
            reward=reward,
            dynamics=dynamics,
            continuous=continuous,
            seed=seed,
        )
        self.surrogates.leave_out_padding(self.observation_mask)
        if self.action_mask_slice is not None:  # flags, whatever `continuous` says
            self.surrogates.continuous.seen[:, self.action_mask_slice] = False
        if self.surrogates.dynamics is not None:
            self.max_horizon = self.surrogates.dynamics.max_horizon
        self._chain = GradientChain(self.surrogates, self.gradient_guard)

    # --- the env protocol ----------------------------------------------------------------------

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Tensor, dict[str, Any]]:
        """Reset every env."""
        obs, info = self.env.reset(seed=seed, options=options)
        self._start_chain()
        return obs, info

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Any]]:
        """Advance every env: the simulator's numbers, the surrogates' gradients.

        Args:
            actions: (env, agent, act_dim) float, still attached to the policy.

        Returns:
            As `MultiAgentVectorEnv.step`; info also holds `value_obs`, where the actor's value is
            to be taken (the prediction itself under `anchor="predicted"`).
        """
        self.check_action(actions)
        actions = self.apply_action_mask(actions)
        before = self._chain.state
        obs, reward, terminated, truncated, info = self._simulate(actions)
        action = self.surrogates.action_space.executed(actions)
        reward = self._attach_reward(before, action, info["value_obs"], reward)
        return obs, reward, terminated, truncated, info

    def rollout(self, policy: Policy | WindowPolicy, horizon: int) -> Window:
        """Collect a window with the learned gradient, the same numbers as by stepping.

        Where everything is learned and the policy can run its steps again, the env runs without a
        graph first and the window is differentiated afterwards, rewards in one batch.
        """
        check_horizon(horizon)
        if not (self.can_replay and isinstance(policy, WindowPolicy)):
            return self._with_rewards(*self._step_through(policy, horizon))
        return self.differentiate(self.collect(policy, horizon), policy)

    def collect(self, policy: Policy | WindowPolicy, horizon: int) -> Window:
        """Step as `rollout` does, without any graph."""
        window = self.env.collect(policy, horizon)
        self._start_chain()
        return window

    @record_function("differentiate window")
    def differentiate(self, window: Window, policy: WindowPolicy) -> Window:
        """Attach the learned gradient to a window, or a part of it, as often as one likes."""
        if not self.can_replay:
            return super().differentiate(window, policy)
        result = self._with_rewards(*self._chain.replay(window, policy))
        self._start_chain()
        return result

    def predict_step(self, obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what the models say of a step: reward, next obs and the chance of going on.

        Args:
            obs: (*batch, agent, obs_dim).
            action: (*batch, agent, act_dim).

        Returns:
            reward (*batch, agent); next obs (*batch, agent, obs_dim), as it was where no gradient
            may pass; and the probability (*batch,) that the episode goes on, 1 while no
            termination was seen or the head is off.

        Raises:
            UsageError: reward or dynamics are not learned, or not step by step.
        """
        models = self.surrogates
        if not self.can_replay or models.dynamics is None or models.dynamics.from_start:
            raise UsageError(
                "single steps can be predicted only where reward and dynamics are learned, and "
                "dynamics by a step model: SurrogateConfig(dynamics=StepModelConfig())"
            )
        action = models.action_space.executed(action)
        after, _ = models.dynamics.step(None, obs, models.dynamics_action(action))
        after = torch.where(models.continuous.mask, after, obs)
        reward = models.predict_reward(obs, action, after)
        continue_prob = torch.ones(obs.shape[:-2], device=obs.device)
        if self.config.termination and models.terminations_seen:
            continue_prob = models.predict_continuation(obs, action)
        return reward, after, continue_prob

    def fit(self, data: Any) -> dict[str, float]:
        """Learn from a window, or from recorded data before training (cold start).

        Args:
            data: a `Window`; or an iterable of windows, such as
                `diffsurrogate.data.recordings.windows_from_minari` makes of a Minari dataset.

        Returns:
            the errors on the last window before learning from it, and the training losses.

        Raises:
            UsageError: the data are no windows, or of another kind of env; or torch keeps no graph.
        """
        check_grad_mode("fit")
        if isinstance(data, Window):
            return self._fit_window(data)
        if not isinstance(data, Iterable):
            raise UsageError(
                f"cannot fit a {type(data).__name__}; give a Window or an iterable of Windows"
            )
        report: dict[str, float] = {}
        for window in data:
            report = self._fit_window(window)
        return report

    def _fit_window(self, window: Any) -> dict[str, float]:
        check_window(window, (self.num_agents, self.obs_dim, self.act_dim))
        return self.surrogates.fit(window.to(self.device).float32())

    def detach(self) -> None:
        """Cut every graph, in the env and in the chain of predictions."""
        self.env.detach()
        self._start_chain()

    def enable_gradients(self, *kinds: str) -> None:
        """Do nothing: the wrapper always has both."""

    def set_state(self, state: State) -> None:
        """Put the env back where `state` was taken."""
        super().set_state(state)
        self._start_chain()

    def state_dict(self) -> State:
        """Return models, optimisers, caches and randomness."""
        return {
            "config": self._settings(),
            "models": dict(self.surrogates.state_dict()),
            "training": self.surrogates.training_state(),
        }

    def load_state_dict(self, state: State) -> None:
        """Continue learning where `state_dict` was taken.

        Raises:
            UsageError: it was taken under another configuration, or weights are not finite.
        """
        check_same_config(state["config"], self._settings())
        check_finite(state["models"], "models", self.surrogates)
        check_finite(state["training"]["optimisers"], "models' optimisers")
        self.surrogates.load_state_dict(state["models"])
        self.surrogates.load_training_state(state["training"])

    def _settings(self) -> State:
        """Return what decides which gradient is learned."""
        flags = {"reward": self.learns_reward, "dynamics": self.learns_dynamics}
        return asdict(self.config) | flags

    # --- diagnostics -----------------------------------------------------------------------------

    def compare_gradients(
        self,
        policy: Callable[[], WindowPolicy],
        horizon: int,
        loss: Callable[[Window], Tensor],
        parameters: Iterable[Tensor],
    ) -> dict[str, float]:
        """Compare the learned policy gradient with the env's own on one and the same window.

        Where the env has no reward gradient, the reference takes the true dynamics with the
        learned reward. The env stands afterwards where it stood.

        Args:
            policy: makes the window's policy, with the same noise each time it is called.
            horizon: steps of the window.
            loss: of the window, a scalar.
            parameters: what to differentiate with respect to.

        Returns:
            gradient_cosine and gradient_norm_ratio (learned over true).

        Raises:
            UsageError: the env has no dynamics gradient of its own.
        """
        weights, state, before = list(parameters), self.env.state(), self.env.gradients
        flags = (self.learns_dynamics, self.learns_reward)
        try:
            self.detach()
            learned = policy_gradient(self, policy(), horizon, loss, weights)
            self.set_state(state)
            self.env.enable_gradients("dynamics")
            self.learns_dynamics = False
            self.learns_reward = "reward" not in self.env.gradients
            self.detach()
            true = policy_gradient(self, policy(), horizon, loss, weights)
        finally:
            self.learns_dynamics, self.learns_reward = flags
            if not before:
                self.env.disable_gradients()
            self.set_state(state)
        return agreement(learned, true)

    # --- inside ----------------------------------------------------------------------------------

    @property
    def gradient_trust(self) -> float:
        """Weight of the learned gradient, in [0, 1]: low while rewards are predicted badly."""
        return self.surrogates.trust.value if self.learns_reward else 1.0

    @property
    def can_replay(self) -> bool:
        """Whether everything is learned, so that a window can be differentiated again."""
        return self.learns_dynamics and self.learns_reward

    def _start_chain(self) -> None:
        """Begin at the simulator's observation, without a past."""
        self._current = self.env.current_obs.detach()
        self._chain.start(self._current)

    def _simulate(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Any]]:
        """Step the env and attach the dynamics' gradient; the reward keeps what the env gives."""
        _ = self.current_obs  # refuses an env that was never reset
        given = actions.detach() if self.can_replay else actions
        obs, reward, terminated, truncated, info = self.env.step(given)
        final = carried = info["final_obs"]
        if not torch.is_grad_enabled():  # nothing to differentiate; the chain restarts
            self._start_chain()
            return obs, reward, terminated, truncated, info | {"value_obs": final}
        if self.learns_dynamics:
            predicted = self._chain.predict(actions, final)
            carried = self._chain.anchor_value(final, predicted)
            final = straight_through(final, predicted)
        ended = info["_final_obs"]
        self._chain.advance(carried, obs, ended if bool(ended.any()) else None)
        if self.learns_dynamics:
            obs = straight_through(obs, self._chain.state)
        self._current = obs if self.config.loop == "closed" else obs.detach()
        info = info | {"final_obs": final, "value_obs": carried}
        return self._current, reward, terminated, truncated, info

    def _attach_reward(
        self, obs: Tensor, action: Tensor, next_obs: Tensor, reward: Tensor
    ) -> Tensor:
        """Give the real reward the gradient of the model, for any leading axes."""
        if not self.learns_reward:
            return reward
        modelled = self.surrogates.predict_reward(obs, action, next_obs)
        return straight_through(reward, modelled)

    def _with_rewards(self, window: Window, before: Tensor) -> Window:
        """Give rewards and ends their gradients, from the states the models were given."""
        action = self.surrogates.action_space.executed(window.action)
        value_obs = window.value_obs
        assert value_obs is not None
        reward = self._attach_reward(before, action, value_obs, window.reward)
        continue_prob = None
        if self.config.termination and self.surrogates.terminations_seen:
            continue_prob = self.surrogates.predict_continuation(before, action)
            continue_prob = straight_through((~window.terminated).to(reward.dtype), continue_prob)
        return replace(window, reward=reward, continue_prob=continue_prob)

    def _step_through(self, policy: Policy | WindowPolicy, horizon: int) -> tuple[Window, Tensor]:
        """Collect a window step by step; return it with the states the models were given."""
        steps: list[dict[str, Tensor]] = []
        states: list[Tensor] = []
        alive_mask: list[Tensor | None] = []
        for _ in range(horizon):
            obs, before = self.current_obs, self._chain.state
            alive_mask.append(self._step_checks.alive_mask(self.alive_mask))
            action = mask_dead_actions(self.apply_action_mask(policy(obs)), alive_mask[-1])
            action = self.gradient_guard.watch(action)
            result = self._simulate(action)
            steps.append(step_of(obs, action, result) | {"value_obs": result[-1]["value_obs"]})
            states.append(before)
        return Window.of(steps, alive_mask), torch.stack(states)


def _require_native(env: MultiAgentVectorEnv, asked: str, *also: str) -> None:
    """Turn on the env's own gradients; where it has none, say what to do instead."""
    try:
        env.enable_gradients(asked, *also)
    except UsageError as error:
        raise UsageError(
            f"{asked}=False asks for the env's own {asked} gradient, but it has none: {error}. "
            f"Leave {asked}=True to learn one"
        ) from error

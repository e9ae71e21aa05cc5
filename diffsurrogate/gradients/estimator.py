"""The gradient estimator: the simulator's values with the gradients of the models.

`SurrogateConfig` selects it. `anchor`: models are evaluated at the simulator's states (real) or at
their own predictions (predicted). `loop`: gradients pass through the policy's dependence on later
observations (closed) or through actions only (open). Observations and rewards of a window always
have the simulator's values.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from diffsurrogate.envs.env import MultiAgentVectorEnv
from diffsurrogate.envs.window import GradientGuard, Window, WindowPolicy
from diffsurrogate.surrogates.fitting import Surrogates


def straight_through(value: Tensor, surrogate: Tensor) -> Tensor:
    """Return `value` going forward and the gradient of `surrogate` going back."""
    return value.detach() + (surrogate - surrogate.detach())  # this order keeps `value` exact


def clip_to_median_norm(
    gradient: Float[Tensor, "*time env agent obs_dim"], times: float
) -> Float[Tensor, "*time env agent obs_dim"]:
    """Clip gradients, at each step, to `times` the median norm over envs with a nonzero one."""
    norm = gradient.flatten(-2).norm(dim=-1)
    some = norm > 0
    limit = times * norm.where(some, torch.nan).nanmedian(dim=-1, keepdim=True).values
    return gradient * (limit / norm).clamp(max=1.0).where(some, 1.0)[..., None, None]


def clip_adjoint(state: Tensor, times: float | None) -> Tensor:
    """Clip the gradient arriving at states (*time, env, agent, obs_dim); None for no limit."""
    if times is not None and state.requires_grad:
        state.register_hook(lambda gradient: clip_to_median_norm(gradient, times))
    return state


class GradientChain:
    """The models' input state, carried from step to step with its graph.

    With `anchor="real"` it has the simulator's value and the models' gradient; with "predicted" it
    is the models' own prediction.
    """

    def __init__(self, surrogates: Surrogates, guard: GradientGuard) -> None:
        """Build a chain whose replayed actions `guard` watches; call `start` before use."""
        self.surrogates = surrogates
        self.guard = guard
        self.config = surrogates.config
        self.state = torch.empty(0)
        """(env, agent, obs_dim), the models' input at the next step."""
        self._carry: Any = None

    def start(self, obs: Tensor) -> None:
        """Start new trajectories at the simulator's observation."""
        self.state = obs
        model = self.surrogates.dynamics
        self._carry = None if model is None else model.begin(obs)

    def predict(self, action: Tensor, real_next: Tensor) -> Tensor:
        """Return the predicted next observation, with real values of discrete features."""
        model = self.surrogates.dynamics
        assert model is not None
        predicted, self._carry = model.step(self._carry, self.state, self._model_action(action))
        return self._mask(predicted, real_next)

    def anchor_value(self, real_next: Tensor, predicted: Tensor) -> Tensor:
        """Return the next state, with the simulator's or the predicted value."""
        value = predicted if self.config.anchor == "predicted" else real_next
        return clip_adjoint(straight_through(value, predicted), self.config.adjoint_clip)

    def advance(self, carried: Tensor, real_obs: Tensor, ended: Tensor | None) -> None:
        """Move to the next state; resets cut its graph. `ended` is None if no env was reset."""
        if ended is not None:
            carried = torch.where(ended[:, None, None], real_obs.detach(), carried)
            model = self.surrogates.dynamics
            if model is not None:
                self._carry = model.restart(self._carry, ended, real_obs.detach())
        self.state = carried

    def replay(self, values: Window, policy: WindowPolicy) -> tuple[Window, Tensor]:
        """Attach the learned gradient to a window collected without one.

        Returns:
            the window with its graph (but for rewards), and the models' input states (time, env,
            agent, obs_dim).
        """
        if self.config.loop == "closed":
            return self._replay_stepwise(values, lambda obs, t: policy.at(obs, t))
        actions = straight_through(values.action, policy.at(values.obs, slice(None)))
        actions = self.guard.watch(values.mask_dead_actions(actions))
        model = self.surrogates.dynamics
        if model is not None and model.from_start:
            return self._replay_at_once(values, actions)
        return self._replay_stepwise(values, lambda _, t: actions[t])

    def _replay_stepwise(
        self, values: Window, act: Callable[[Tensor, int], Tensor]
    ) -> tuple[Window, Tensor]:
        self.start(values.obs[0])
        some_ended = values.ended.any(-1).tolist()
        rows: list[tuple[Tensor, ...]] = []
        for t in range(values.horizon):
            before = self.state
            obs = values.obs[t]
            if self.config.loop == "closed":
                obs = straight_through(obs, before)
            action = straight_through(values.action[t], act(obs, t))
            action = self.guard.watch(values.mask_dead_actions(action, t))
            predicted = self.predict(action, values.next_obs[t])
            final = straight_through(values.next_obs[t], predicted)
            carried = self.anchor_value(values.next_obs[t], predicted)
            if t + 1 < values.horizon:
                ended = values.ended[t] if some_ended[t] else None
                self.advance(carried, values.obs[t + 1], ended)
            rows.append((obs, action, final, carried, before))
        obs, action, final, value_obs, before = map(torch.stack, zip(*rows, strict=True))
        window = replace(values, obs=obs, action=action, next_obs=final, value_obs=value_obs)
        return window, before

    def _replay_at_once(self, values: Window, actions: Tensor) -> tuple[Window, Tensor]:
        """Replay an open loop with one call of policy and trajectory model over (time, env)."""
        model = self.surrogates.dynamics
        assert model is not None
        predicted = model.predict(values, self._model_action(actions))
        predicted = self._mask(predicted, values.next_obs)
        final = straight_through(values.next_obs, predicted)
        carried = self.anchor_value(values.next_obs, predicted)
        first = torch.ones_like(values.ended)
        first[1:] = values.ended[:-1]
        shifted = torch.cat([values.obs[:1], carried[:-1]])
        before = torch.where(first[..., None, None], values.obs, shifted)
        window = replace(values, action=actions, next_obs=final, value_obs=carried)
        return window, before

    def _model_action(self, action: Tensor) -> Tensor:
        """Return the executed action in the dynamics model's units."""
        return self.surrogates.dynamics_action(self.surrogates.action_space.executed(action))

    def _mask(self, predicted: Tensor, real_next: Tensor) -> Tensor:
        return torch.where(self.surrogates.continuous.mask, predicted, real_next.detach())


def policy_gradient(
    env: MultiAgentVectorEnv,
    policy: WindowPolicy,
    horizon: int,
    loss: Callable[[Window], Tensor],
    weights: list[Tensor],
) -> Tensor:
    """Return the gradient `(weight,)` of a loss of the env's next window; 0 if there is none."""
    value = loss(env.rollout(policy, horizon))
    if not value.requires_grad:  # the simulator's reward is constant
        return torch.cat([torch.zeros_like(w).flatten() for w in weights])
    grads = torch.autograd.grad(value, weights, allow_unused=True)
    pairs = zip(grads, weights, strict=True)
    return torch.cat([(torch.zeros_like(w) if g is None else g).flatten() for g, w in pairs])


def agreement(learned: Tensor, true: Tensor) -> dict[str, float]:
    """Return gradient_cosine and gradient_norm_ratio (learned over true).

    If the true gradient vanishes, the cosine is 0 and the ratio infinite or NaN.
    """
    return {
        "gradient_cosine": float(torch.cosine_similarity(learned, true, dim=0)),
        "gradient_norm_ratio": float(learned.norm() / true.norm()),
    }

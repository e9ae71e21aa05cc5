"""Recurrent policies, whose actions depend on all observations since the episode start."""

import torch
from torch import Tensor, nn

from diffsurrogate.actor_critic.actor import Actor, NoisyPolicy
from diffsurrogate.envs.env import MultiAgentVectorEnv
from diffsurrogate.errors import UsageError
from diffsurrogate.nets.build import build_recurrent_net
from diffsurrogate.nets.recurrent import Recurrence, RecurrentNet


class RecurrentActor(Actor):
    """An `Actor` with a hidden state per agent, which the caller keeps.

    Observations are of whole windows, (time, env, agent, obs_dim), with what came before them;
    `act` and `gaussian`, of a single observation, raise `UsageError`.
    """

    net: RecurrentNet
    _remembers = True

    def nothing(self, num_envs: int) -> Tensor:
        """Return initial hidden states (env, agent, gru_size), all zero."""
        shape = (num_envs, len(self.action_space.scale), self.config.net.gru_size)
        return torch.zeros(shape, device=self.action_space.scale.device)

    def unroll(self, obs: Tensor, past: Recurrence) -> tuple[Tensor, Tensor]:
        """Return means before squashing, or logits, along a window, and hidden states.

        Args:
            obs: (time, env, agent, obs_dim).
            past: hidden states before the window, and its episode starts.

        Returns:
            (time, env, agent, act_dim) and hidden states after each step (time, env, agent,
            gru_size).
        """
        inputs = self._inputs(obs)
        out, hidden = self.net(inputs, past)
        return self._masked(out, inputs), hidden

    def act_next(
        self, obs: Tensor, noise: Tensor | None, hidden: Tensor, episode_start: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return actions (env, agent, act_dim) as `act` does, and the hidden states after them.

        Args:
            obs: (env, agent, obs_dim).
            noise: (env, agent, act_dim), or None.
            hidden: (env, agent, gru_size).
            episode_start: (env,) bool: this is the first observation of its episode.
        """
        past = Recurrence(hidden=hidden, episode_start=episode_start.unsqueeze(0))
        out, after = self.unroll(obs.unsqueeze(0), past)
        return self._sample(out.squeeze(0), noise), after.squeeze(0)

    def exploring(
        self, env: MultiAgentVectorEnv, noise: Tensor, hidden: Tensor | None = None
    ) -> "ExploringPolicy":
        """Return the policy with the noise of the env's next window; see `Actor`."""
        hidden = self.nothing(env.num_envs) if hidden is None else hidden
        return ExploringPolicy(self, env, noise, hidden)

    def replaying(self, noise: Tensor, past: Recurrence | None = None) -> "ReplayedPolicy":
        """Return the policy that acted in a recorded window; see `Actor`."""
        return ReplayedPolicy(self, noise, _required(past))

    def _network(self, agents: int, in_dim: int, out_dim: int) -> nn.Module:
        gain = self.config.head_gain
        return build_recurrent_net(self.config.net, agents, in_dim, out_dim, head_gain=gain)

    def _output_of(self, obs: Tensor, past: Recurrence | None = None) -> Tensor:
        return self.unroll(obs, _required(past))[0]


def _required(past: Recurrence | None) -> Recurrence:
    if past is None:
        raise UsageError(
            "this policy is recurrent, so an observation alone does not determine its action; "
            "act by trainer.policy(env), which keeps the hidden states of that env"
        )
    return past


class RecurrentPolicy:
    """A deterministic recurrent policy with the hidden states of one env.

    Call it once per step of that env. Hidden states are reset at the env's `episode_start`, but not
    by `set_state`.
    """

    def __init__(self, actor: RecurrentActor, env: MultiAgentVectorEnv) -> None:
        """Start from initial hidden states; the env's `episode_start` resets them."""
        self.actor, self.env = actor, env
        self.hidden = actor.nothing(env.num_envs)

    @torch.no_grad()
    def __call__(self, obs: Tensor) -> Tensor:
        """Act on the env's current observation, (env, agent, obs_dim).

        Raises:
            UsageError: the observation's shape is not this env's.
        """
        env = self.env
        needed = (env.num_envs, env.num_agents, env.obs_dim)
        if tuple(obs.shape) != needed:
            raise UsageError(
                f"obs has the shape {tuple(obs.shape)}, but this policy keeps hidden states for "
                f"an env with (env, agent, obs_dim) = {needed}; give that env's current_obs"
            )
        action, self.hidden = self.actor.act_next(obs, None, self.hidden, env.episode_start)
        return self.actor.action_space.executed(action)


class ExploringPolicy(NoisyPolicy):
    """A recurrent policy with the noise of one window of an env, on which it acts step by step.

    Afterwards `at` recomputes its steps in their order, as a `ReplayedPolicy` does.
    """

    actor: RecurrentActor

    def __init__(
        self, actor: RecurrentActor, env: MultiAgentVectorEnv, noise: Tensor, hidden: Tensor
    ) -> None:
        """Start at step 0 of `noise`, from hidden states (env, agent, gru_size)."""
        super().__init__(actor, noise)
        self.env, self.hidden = env, hidden
        self.before: list[Tensor] = []
        """Hidden states before each step so far, without a graph."""
        self._starts: list[Tensor] = []
        self._again: ReplayedPolicy | None = None

    def __call__(self, obs: Tensor) -> Tensor:
        """Act on the env's current observation, (env, agent, obs_dim)."""
        start = self.env.episode_start
        self._starts.append(start)
        self.before.append(torch.where(start[:, None, None], 0.0, self.hidden.detach()))
        noise = self.noise[self.step]
        action, self.hidden = self.actor.act_next(obs, noise, self.hidden, start)
        self.step += 1
        return action

    def at(self, obs: Tensor, step: int | slice) -> Tensor:
        """Recompute the action at `step`, as a `ReplayedPolicy` of the steps so far."""
        if self._again is None or len(self._again.past.episode_start) < self.step:
            past = Recurrence(hidden=self.before[0], episode_start=torch.stack(self._starts))
            self._again = ReplayedPolicy(self.actor, self.noise, past)
        return self._again.at(obs, step)

    def detach(self) -> None:
        """Cut the graph of the hidden states."""
        self.hidden = self.hidden.detach()


class ReplayedPolicy(NoisyPolicy):
    """A recurrent policy in a recorded window, whose steps are recomputed in their order.

    Gradients pass through the hidden states of the window, but not to those before it.
    """

    actor: RecurrentActor

    def __init__(self, actor: RecurrentActor, noise: Tensor, past: Recurrence) -> None:
        """Start from hidden states before the window; it knows where episodes start."""
        super().__init__(actor, noise)
        self.past, self.hidden = past, past.hidden

    def at(self, obs: Tensor, step: int | slice) -> Tensor:
        """Recompute the action at `step`, the one after the last; or of all steps at once.

        Raises:
            ValueError: steps are not taken in their order.
        """
        if isinstance(step, slice):
            return self.actor._sample(self.actor.unroll(obs, self.past)[0], self.noise)
        if step == 0:
            self.step, self.hidden = 0, self.past.hidden
        if step != self.step:
            raise ValueError(f"step {step} was asked for, but {self.step} is next")
        start = self.past.episode_start[step]
        action, self.hidden = self.actor.act_next(obs, self.noise[step], self.hidden, start)
        self.step += 1
        return action

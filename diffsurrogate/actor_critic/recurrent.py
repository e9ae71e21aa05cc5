"""Recurrent policies, whose actions depend on all observations since the episode start."""

import torch
from torch import Tensor, nn

from diffsurrogate.actor_critic.actor import Actor
from diffsurrogate.envs.action_space import clamp_to_box
from diffsurrogate.envs.env import MultiAgentVectorEnv
from diffsurrogate.errors import UsageError
from diffsurrogate.nets.build import build_recurrent_net
from diffsurrogate.nets.recurrent import Recurrence, RecurrentNet


class RecurrentActor(Actor):
    """An `Actor` with a hidden state per agent, which the caller keeps.

    Methods of a single observation (`act`, `log_prob`, `entropy`) raise `UsageError`.
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

    def evaluate_actions(
        self, obs: Tensor, action: Tensor, past: Recurrence
    ) -> tuple[Tensor, Tensor]:
        """Return the log-density and the entropy of actions along a window: (time, env, agent).

        Args:
            obs: (time, env, agent, obs_dim).
            action: (time, env, agent, act_dim), not clamped.
            past: hidden states before the window, and its episode starts.
        """
        out, _ = self.unroll(obs, past)
        return self._log_density(out, action, None), self._entropy_of(out)

    def _network(self, agents: int, in_dim: int, out_dim: int) -> nn.Module:
        gain = self.config.head_gain
        return build_recurrent_net(self.config.net, agents, in_dim, out_dim, head_gain=gain)

    def _output_of(self, obs: Tensor) -> Tensor:
        raise UsageError(
            "this policy is recurrent, so an observation alone does not determine its action; "
            "act by trainer.policy(env), which keeps the hidden states of that env"
        )


class RecurrentPolicy:
    """A recurrent policy with the hidden states of one env; call it once per step of that env.

    Hidden states are reset at the env's `episode_start`, but not by `set_state`.
    """

    def __init__(
        self,
        actor: RecurrentActor,
        env: MultiAgentVectorEnv,
        *,
        noise: Tensor | None = None,
        hidden: Tensor | None = None,
    ) -> None:
        """Start from initial or given hidden states.

        Args:
            actor: the policy.
            env: its `episode_start` resets hidden states.
            noise: (time, env, agent, act_dim) of one window, with actions not clamped; None acts
                deterministically, with clamped actions.
            hidden: (env, agent, gru_size) to continue from; None for the initial ones.
        """
        self.actor, self.env, self.noise = actor, env, noise
        self.hidden = actor.nothing(env.num_envs) if hidden is None else hidden
        self.step = 0

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
        noise = None if self.noise is None else self.noise[self.step]
        action, self.hidden = self.actor.act_next(obs, noise, self.hidden, env.episode_start)
        self.step += 1
        if noise is None:
            return clamp_to_box(action, env.action_low, env.action_high)
        return action

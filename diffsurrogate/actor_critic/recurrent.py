"""Policies with memory: what agents do depends on all they saw since the episode began."""

import torch
from torch import Tensor, nn

from diffsurrogate.actor_critic.actor import Actor
from diffsurrogate.envs.action_space import clamp_to_box
from diffsurrogate.envs.env import MultiAgentVectorEnv
from diffsurrogate.errors import UsageError
from diffsurrogate.nets.build import build_recurrent_net
from diffsurrogate.nets.recurrent import Recurrence, RecurrentNet


class RecurrentActor(Actor):
    """An `Actor` with a hidden state per agent, which it never keeps itself.

    What asks of an observation alone (`act`, `log_prob`, `entropy`) is refused.
    """

    net: RecurrentNet
    _remembers = True

    def forward(self, obs: Tensor) -> Tensor:
        """Refuse: an observation alone does not decide what is done.

        Raises:
            UsageError: always.
        """
        raise UsageError(
            "this policy has memory, so that an observation alone does not decide what it does; "
            "act by trainer.policy(env), which remembers the episodes of that env"
        )

    def nothing(self, num_envs: int) -> Tensor:
        """Return hidden states (env, agent, memory) of those who have seen nothing."""
        shape = (num_envs, len(self.action_space.scale), self.config.net.gru_size)
        return torch.zeros(shape, device=self.action_space.scale.device)

    def unroll(self, obs: Tensor, past: Recurrence) -> tuple[Tensor, Tensor]:
        """Return means before squashing, or logits, along a window, and hidden states.

        Args:
            obs: (time, env, agent, obs_dim).
            past: what was known before.

        Returns:
            (time, env, agent, act_dim) and, after each step, (time, env, agent, memory).
        """
        inputs = self._inputs(obs)
        out, hidden = self.net(inputs, past)
        return self._possible(out, inputs), hidden

    def act_next(
        self, obs: Tensor, noise: Tensor | None, hidden: Tensor, episode_start: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return actions (env, agent, act_dim) as `act` does, and the hidden states after them.

        Args:
            obs: (env, agent, obs_dim).
            noise: (env, agent, act_dim), or None.
            hidden: (env, agent, memory).
            episode_start: (env,) bool: this is the first observation of its episode.
        """
        past = Recurrence(hidden=hidden, episode_start=episode_start.unsqueeze(0))
        out, after = self.unroll(obs.unsqueeze(0), past)
        return self._drawn(out.squeeze(0), noise), after.squeeze(0)

    def evaluate_actions(
        self, obs: Tensor, action: Tensor, past: Recurrence
    ) -> tuple[Tensor, Tensor]:
        """Return the log-density and the entropy of actions along a window: (time, env, agent).

        Args:
            obs: (time, env, agent, obs_dim).
            action: (time, env, agent, act_dim), not clamped to the box.
            past: what was known before.
        """
        out, _ = self.unroll(obs, past)
        return self._log_density(out, action, None), self._entropy_of(out)

    def _network(self, agents: int, in_dim: int, out_dim: int) -> nn.Module:
        gain = self.config.head_gain
        return build_recurrent_net(self.config.net, agents, in_dim, out_dim, head_gain=gain)


class RecurrentPolicy:
    """A policy with memory of the episodes of one env; to be asked once per step of it.

    It knows of episodes that end by the env's `episode_start`; that an env was put back
    (`set_state`) it does not know.
    """

    def __init__(
        self,
        actor: RecurrentActor,
        env: MultiAgentVectorEnv,
        *,
        noise: Tensor | None = None,
        hidden: Tensor | None = None,
    ) -> None:
        """Remember nothing yet, or go on.

        Args:
            actor: the policy.
            env: whose `episode_start` says where to forget.
            noise: (time, env, agent, act_dim) of one window, whose actions may leave the box; None
                acts deterministically and in the box.
            hidden: (env, agent, memory) to go on from; None for nothing.
        """
        self.actor, self.env, self.noise = actor, env, noise
        self.hidden = actor.nothing(env.num_envs) if hidden is None else hidden
        self.step = 0

    @torch.no_grad()
    def __call__(self, obs: Tensor) -> Tensor:
        """Act on the env's current observation, (env, agent, obs_dim).

        Raises:
            UsageError: the observation is of another shape than this env's.
        """
        env = self.env
        needed = (env.num_envs, env.num_agents, env.obs_dim)
        if tuple(obs.shape) != needed:
            raise UsageError(
                f"obs has the shape {tuple(obs.shape)}, but this policy remembers the episodes of "
                f"an env with (env, agent, obs_dim) = {needed}; give that env's current_obs"
            )
        noise = None if self.noise is None else self.noise[self.step]
        action, self.hidden = self.actor.act_next(obs, noise, self.hidden, env.episode_start)
        self.step += 1
        if noise is None:
            return clamp_to_box(action, env.action_low, env.action_high)
        return action

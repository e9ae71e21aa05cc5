"""Hidden states of recurrent policies and critics, carried from window to window."""

from dataclasses import replace

import torch
from torch import Tensor

from diffsurrogate.actor_critic.actor import Actor, NoisyPolicy
from diffsurrogate.actor_critic.critic import Critic
from diffsurrogate.actor_critic.recurrent import ExploringPolicy
from diffsurrogate.envs.env import MultiAgentVectorEnv
from diffsurrogate.envs.window import Window
from diffsurrogate.nets.recurrent import Recurrence


class HiddenStates:
    """Keeps the hidden states of a trainer's policy and critic; those without a GRU have none."""

    def __init__(self, actor: Actor, critic: Critic, env: MultiAgentVectorEnv) -> None:
        """Begin at zero."""
        widths = {"actor": actor.config.net.gru_size, "critic": critic.config.net.gru_size}
        self.actor, self.critic = actor, critic
        self.now = {
            part: torch.zeros(env.num_envs, env.num_agents, width, device=env.device)
            for part, width in widths.items()
            if width > 0
        }
        """(env, agent, gru_size) before the env's next step."""
        self._starts = torch.ones(env.num_envs, dtype=torch.bool, device=env.device)
        """(env,) bool: the window's first observation is the first of its episode."""

    def policy(self, env: MultiAgentVectorEnv, noise: Tensor) -> NoisyPolicy:
        """Return the policy that collects the env's next window, with its noise."""
        if self.now:
            self._starts = env.episode_start
        return self.actor.exploring(env, noise, self.now.get("actor"))

    @torch.no_grad()
    def record(self, window: Window, policy: NoisyPolicy) -> Window:
        """Return the window that `policy` collected with its hidden states; carry on from its end.

        A critic's are those of its online network; its target network begins from them as well.
        """
        if isinstance(policy, ExploringPolicy):
            window = replace(window, actor_hidden=torch.stack(policy.before))
            self.now["actor"] = policy.hidden.detach()
        if "critic" in self.now:
            starts = torch.cat([self._starts.unsqueeze(0), window.ended[:-1]])
            past = Recurrence(hidden=self.now["critic"], episode_start=starts)
            after = self.critic.hidden_along(window.obs, past)
            window = replace(window, critic_hidden=past.before_each(after))
            self.now["critic"] = after[-1]
        return window

    def state_dict(self) -> dict[str, Tensor]:
        """Return the hidden states."""
        return dict(self.now)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from what `state_dict` returned."""
        self.now = dict(state)


def actor_past(window: Window) -> Recurrence | None:
    """Return what a recurrent policy remembers before a window; None of others."""
    hidden = window.actor_hidden
    return None if hidden is None else Recurrence.along(hidden, window.ended)


def critic_past(window: Window) -> Recurrence | None:
    """Return what a recurrent critic remembers before a window; None of others."""
    hidden = window.critic_hidden
    return None if hidden is None else Recurrence.along(hidden, window.ended)

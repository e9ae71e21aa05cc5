"""Toys with an action mask and with a global state among the observations."""

import torch
from torch import Tensor

from diffsurrogate.envs.env import MultiAgentVectorEnv
from diffsurrogate.envs.observation_slices import available_actions
from diffsurrogate.envs.torch_env import TorchEnv, TorchState
from diffsurrogate.functional.discrete_actions import one_hot_argmax

ENVS, AGENTS, CHOICES = 7, 3, 4
SEEN = 2
"""Numbers that an agent sees."""


class MaskedReach(TorchEnv):
    """Discrete actions, some of which are masked; agent 2 is dead from step 3 on.

    Observations are the agent's place and its square, the action mask, and, as the global state,
    the places of all. An action pulls towards a fixed place; the distance to 0 costs.
    """

    true_gradients = frozenset()
    action_mask_slice = slice(SEEN, SEEN + CHOICES)
    global_state_slice = slice(SEEN + CHOICES, SEEN + CHOICES + AGENTS)

    def __init__(self, *, num_envs: int = ENVS, max_steps: int = 8) -> None:
        super().__init__(
            num_envs=num_envs,
            agents=["a", "b", "c"],
            obs_dim=SEEN + CHOICES + AGENTS,
            act_dim=CHOICES,
            discrete_actions=True,
            max_steps=max_steps,
        )
        self.taken = 0
        """Choices of agents that have any."""
        self.closed = 0
        """Those that were closed."""

    def spawn(self, count: int, generator: torch.Generator) -> TorchState:
        shape = (count, AGENTS)
        place = 2 * torch.rand(shape, generator=generator) - 1
        return {"place": place, "step": torch.zeros(count, dtype=torch.long)}

    def available(self, state: TorchState) -> Tensor:
        """Return the action mask: (env, agent, action) bool."""
        bits = (97 * state["place"].abs()).long() + 1  # 1 to 98: at least one of 7 bits is set
        available = (bits.unsqueeze(-1) >> torch.arange(CHOICES)) % 2 == 1
        available[..., 0] |= ~available.any(-1)
        gone = (state["step"] >= 3).unsqueeze(-1) & (torch.arange(AGENTS) == 2)
        return available & ~gone.unsqueeze(-1)

    def observe(self, state: TorchState) -> Tensor:
        place = state["place"].unsqueeze(-1)
        everybody = state["place"].unsqueeze(1).expand(-1, AGENTS, -1)
        seen = torch.cat([place, place.square()], dim=-1)
        return torch.cat([seen, self.available(state).float(), everybody], dim=-1)

    def advance(self, state: TorchState, action: Tensor) -> TorchState:
        available = self.available(state)
        self.taken += int(available.any(-1).sum())
        self.closed += int(((action > 0.5) & ~available & available.any(-1, keepdim=True)).sum())
        goal = action @ torch.tensor([-1.0, -0.3, 0.3, 1.0])
        return {"place": 0.8 * state["place"] + 0.2 * goal, "step": state["step"] + 1}

    def reward(self, state: TorchState, action: Tensor, next_state: TorchState) -> Tensor:
        return -next_state["place"].abs()


def closed_choices(env: MultiAgentVectorEnv, obs: Tensor, action: Tensor) -> int:
    """Count the choices in `action` that `obs` says are closed."""
    assert env.action_mask_slice is not None
    return int(
        (one_hot_argmax(action).bool() & ~available_actions(obs, env.action_mask_slice)).sum()
    )


class HiddenHalf(TorchEnv):
    """What an agent sees next is what is hidden now, and the other way round.

    Both are drawn independently, so that half of the squared change, s - x, is out of sight.
    """

    true_gradients = frozenset({"dynamics", "reward"})

    def __init__(self, *, state: bool, num_envs: int = ENVS) -> None:
        super().__init__(
            num_envs=num_envs,
            agents=["a", "b"],
            obs_dim=3 if state else 1,
            act_dim=1,
            max_steps=5,
        )
        if state:
            self.global_state_slice = slice(1, 3)

    def spawn(self, count: int, generator: torch.Generator) -> TorchState:
        x, s = 2 * torch.rand(2, count, 2, generator=generator) - 1
        return {"x": x, "s": s}

    def observe(self, state: TorchState) -> Tensor:
        seen = state["x"].unsqueeze(-1)
        if self.global_state_slice is None:
            return seen
        return torch.cat([seen, state["s"].unsqueeze(1).expand(-1, 2, -1)], dim=-1)

    def advance(self, state: TorchState, action: Tensor) -> TorchState:
        return {"x": state["s"] + 0.1 * action.squeeze(-1), "s": state["x"]}

    def reward(self, state: TorchState, action: Tensor, next_state: TorchState) -> Tensor:
        return -next_state["x"].square()

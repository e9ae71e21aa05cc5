"""A toy that needs memory: the cue of the first step is to be repeated at the last."""

import torch
from torch import Tensor
from torch.nn import functional

from diffsurrogate.envs.torch_env import TorchEnv, TorchState

CUES = 2


class Recall(TorchEnv):
    """Each agent observes its own cue once, then the time only, and answers in the last step.

    The reward is 1 for repeating the cue in the last step. The time is observed, so that without
    memory half of that is had, by chance, and no more.
    """

    true_gradients = frozenset()

    def __init__(self, *, num_envs: int, agents: int = 3, steps: int = 5) -> None:
        self.last = steps
        super().__init__(
            num_envs=num_envs,
            agents=[f"agent_{i}" for i in range(agents)],
            obs_dim=CUES + 1,
            act_dim=CUES,
            discrete_actions=True,
            max_steps=steps + 1,
        )

    def spawn(self, count: int, generator: torch.Generator) -> TorchState:
        cue = torch.randint(CUES, (count, self.num_agents), generator=generator)
        return {"cue": cue, "step": torch.zeros(count, dtype=torch.long)}

    def observe(self, state: TorchState) -> Tensor:
        step = state["step"].view(-1, 1, 1).expand(-1, self.num_agents, -1)
        heard = torch.where(step == 0, functional.one_hot(state["cue"], CUES), 0)
        return torch.cat([heard, step / self.last], -1).float()

    def advance(self, state: TorchState, action: Tensor) -> TorchState:
        return {"cue": state["cue"], "step": state["step"] + 1}

    def reward(self, state: TorchState, action: Tensor, next_state: TorchState) -> Tensor:
        right = action.gather(-1, state["cue"].unsqueeze(-1)).squeeze(-1)
        return torch.where((next_state["step"] == self.last).unsqueeze(-1), right, 0.0)

    def terminated(self, state: TorchState) -> Tensor:
        return state["step"] == self.last

    def max_return(self) -> Tensor:
        return torch.full((self.num_envs,), float(self.num_agents))

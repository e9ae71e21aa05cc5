"""Bring your own simulation: two drones, a reward without a gradient, and SHAC on top of it.

Run it: python examples/own_env.py
"""

import torch
from torch import Tensor

from diffsurrogate import SHAC, LearnedDiffWrapper, evaluate
from diffsurrogate.torch_env import TorchEnv, TorchState


class Hover(TorchEnv):
    """Two drones in the plane, each pushed by its own force; reach your target and stay there."""

    def spawn(self, count: int, generator: torch.Generator) -> TorchState:
        draw = 2 * torch.rand(2, count, 2, 2, generator=generator, device=self.device) - 1
        return {"position": draw[0], "velocity": torch.zeros_like(draw[0]), "target": draw[1]}

    def observe(self, state: TorchState) -> Tensor:
        return torch.cat([state["target"] - state["position"], state["velocity"]], dim=-1)

    def advance(self, state: TorchState, action: Tensor) -> TorchState:
        velocity = 0.9 * state["velocity"] + 0.1 * action
        return {**state, "position": state["position"] + 0.2 * velocity, "velocity": velocity}

    def reward(self, state: TorchState, action: Tensor, next_state: TorchState) -> Tensor:
        distance = (next_state["target"] - next_state["position"]).norm(dim=-1)
        return (distance < 0.3).float() + (distance < 1.0).float()  # steps: no gradient anywhere


def make(num_envs: int = 256, seed: int = 0) -> Hover:
    """Make the env; each drone sees 4 numbers and gives 2."""
    return Hover(
        num_envs=num_envs, agents=["left", "right"], obs_dim=4, act_dim=2, seed=seed, max_steps=100
    )


def main(total_steps: int = 1_500_000) -> float:
    """Learn the missing gradients, and with them the task; return the mean return of an episode."""
    torch.set_num_threads(1)
    agent = SHAC(LearnedDiffWrapper(make()))
    agent.learn(total_steps=total_steps, progress_bar=True)
    result = evaluate(agent.predict, make(seed=1))
    print(f"return {result.mean_return:.1f}; standing still earns 55, the best is about 200")
    return result.mean_return


if __name__ == "__main__":
    main()

"""Bring your own simulation: two drones, a reward without a gradient, and SHAC on top of it.

Run it: python examples/own_env.py learns the gradients, which takes the reward as it is (SHAC++);
with --smooth it takes the simulation's own, of a reward that was made smooth for that (SHAC).
"""

import torch
import tyro
from torch import Tensor

from diffsurrogate import SHAC, LearnedDiffWrapper, evaluate
from diffsurrogate.envs.torch_env import TorchEnv, TorchState


class Hover(TorchEnv):
    """Two drones in the plane, each pushed by its own force; reach your target and stay there."""

    true_gradients = frozenset({"dynamics"})  # the reward is made of steps: no slope anywhere

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
        return (distance < 0.3).float() + (distance < 1.0).float()


class SmoothHover(Hover):
    """Autograd gets all of this one right; `check_gradients` says so."""

    true_gradients = frozenset({"dynamics", "reward"})

    def reward(self, state: TorchState, action: Tensor, next_state: TorchState) -> Tensor:
        return 2 / (1 + 4 * (next_state["target"] - next_state["position"]).square().sum(-1))


def make(
    num_envs: int = 256, seed: int = 0, *, smooth: bool = False, differentiable: bool = False
) -> Hover:
    """Make the env; each drone sees 4 numbers and gives 2.

    Args:
        num_envs: copies that step together.
        seed: of the start states.
        smooth: pay for being near, with a slope, instead of in steps.
        differentiable: keep the graph through what the env declares in `true_gradients`.
    """
    return (SmoothHover if smooth else Hover)(
        num_envs=num_envs,
        agents=["left", "right"],
        obs_dim=4,
        act_dim=2,
        seed=seed,
        max_steps=100,
        differentiable=differentiable,
    )


def main(total_steps: int = 400_000, smooth: bool = False) -> float:
    """Train, and return the mean return of an episode, paid in steps either way.

    Args:
        total_steps: of all envs together.
        smooth: train on the smooth reward with the simulation's own gradients, instead of learning
            those of the reward in steps.
    """
    torch.set_num_threads(1)
    env = make(smooth=True, differentiable=True) if smooth else LearnedDiffWrapper(make())
    agent = SHAC(env)
    agent.learn(total_steps=total_steps, progress_bar=True)
    result = evaluate(agent.predict, make(seed=1))
    print(f"return {result.mean_return:.1f}; standing still earns 114, the best is about 380")
    return result.mean_return


if __name__ == "__main__":
    tyro.cli(main)

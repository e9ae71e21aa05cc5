"""Give the reward as a formula, and learn the dynamics only.

Most researchers know their reward: here HalfCheetah's, the forward speed less a tenth of the
squared torques. The formula serves the gradient alone; returns are still the simulator's.

    python examples/known_reward.py
"""

from torch import Tensor, nn

from diffsurrogate import SHAC, LearnedDiffWrapper, evaluate, make

SPEED = 8
"""Where HalfCheetah's observation holds the forward speed."""


class ForwardSpeed(nn.Module):
    """Maps (*batch, agent, feature) of a step to its reward (*batch, agent)."""

    def forward(self, obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        """Return the mean of the speeds before and after the step, less the price of torques."""
        speed = (obs[..., SPEED] + next_obs[..., SPEED]) / 2
        return speed - 0.1 * action.square().sum(-1)


def main(total_steps: int = 100_000, eval_steps: int = 1000) -> float:
    """Train SHAC++ with the known reward; return the mean return."""
    env_id = "mujoco/HalfCheetah-v5"
    agent = SHAC(LearnedDiffWrapper(make(env_id, num_envs=16), reward=ForwardSpeed()), seed=0)
    agent.learn(total_steps, progress_bar=True)
    result = evaluate(agent.predict, make(env_id, num_envs=16), steps=eval_steps)
    print(f"return {result.mean_return:.0f}")
    return result.mean_return


if __name__ == "__main__":
    main()

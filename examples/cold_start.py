"""Warm the models up on recorded data before the policy takes its first step.

Records windows of a random policy (any policy will do, or a Minari dataset by
`diffsurrogate.data.recordings.windows_from_minari`), fits the models on them, and shows the models'
errors and the agreement of their gradient with the simulator's before any training.

    python examples/cold_start.py
"""

import torch

from diffsurrogate import SHAC, LearnedDiffWrapper, make
from diffsurrogate.actor_critic.actor import NoisyPolicy
from diffsurrogate.algorithms.pathwise import PathwiseGradient
from diffsurrogate.data.recordings import record


def main(windows: int = 40, total_steps: int = 50_000) -> tuple[float, float]:
    """Return the policy gradient's cosine with the true one, before and after the cold start."""
    env_id, num_envs = "diffsurrogate/cartpole-swingup", 64
    recorder = make(env_id, num_envs=num_envs)
    recorder.reset(seed=0)
    generator = torch.Generator().manual_seed(0)

    def random_policy(obs: torch.Tensor) -> torch.Tensor:
        return 2 * torch.rand((*obs.shape[:-1], 1), generator=generator) - 1

    env = LearnedDiffWrapper(make(env_id, num_envs=num_envs, differentiable=True))
    env.reset(seed=1)
    agent = SHAC(env)
    env.fit(record(recorder, random_policy, windows=1))  # the statistics, hardly more
    before = _cosine(agent, env)
    report = env.fit(record(recorder, random_policy, windows=windows))
    after = _cosine(agent, env)
    print(f"errors: reward {report['reward_error']:.4f}, dynamics {report['dynamics_error']:.4f}")
    print(f"cosine with the true policy gradient: {before:.3f} before, {after:.3f} after")
    agent.learn(total_steps=total_steps)
    return before, after


def _cosine(agent: SHAC, env: LearnedDiffWrapper) -> float:
    noise = torch.randn(8, env.num_envs, 1, 1, generator=torch.Generator().manual_seed(2))
    gradient = agent.policy_update.gradient
    assert isinstance(gradient, PathwiseGradient)
    report = env.compare_gradients(
        lambda: NoisyPolicy(agent.actor, noise),
        len(noise),
        gradient.return_loss,
        agent.actor.net.parameters(),
    )
    return report["gradient_cosine"]


if __name__ == "__main__":
    main()

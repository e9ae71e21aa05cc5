"""What an update of SHAC costs beside the simulator's own forward and backward pass.

    python examples/benchmarks/shac_window.py
    python examples/benchmarks/shac_window.py --robots hopper ant --num-envs 64 --seconds 60

Both sides run in turns in one process, on windows of the same steps, so that a busy machine slows
both; ratios are medians over pairs. The simulator's side gets actions drawn in advance, and the
gradient of all rewards and of the last observation. SHAC's side is a whole update with the settings
of its paper: policy, values at the ends, 64 minibatches of the critic, normalisers.
"""

import argparse
import time
from statistics import median

import torch

from diffsurrogate import SHAC, MultiAgentVectorEnv, make, recommended
from diffsurrogate.envs.window import Window


def simulate(env: MultiAgentVectorEnv, horizon: int) -> float:
    """Return the CPU-seconds of a window and its gradient, without any learning."""
    shape = (horizon, env.num_envs, env.num_agents, env.act_dim)
    actions = (2 * torch.rand(shape) - 1).requires_grad_()
    env.detach()
    start = time.process_time()
    window = env.rollout(_Given(actions), horizon)
    (window.reward.sum() + window.next_obs[-1].sum()).backward()
    return time.process_time() - start


class _Given:
    """Acts as was drawn in advance."""

    def __init__(self, actions: torch.Tensor) -> None:
        self.actions = iter(actions)

    def __call__(self, obs: torch.Tensor) -> torch.Tensor:
        return next(self.actions)


def update(agent: SHAC) -> tuple[float, float]:
    """Return the CPU-seconds of an update, and of the critic's training in it."""
    fit, spent = agent.value.fit, [0.0]

    def timed(window: Window, target: torch.Tensor) -> dict[str, float]:
        start = time.process_time()
        report = fit(window, target)
        spent[0] = time.process_time() - start
        return report

    agent.value.fit = timed  # type: ignore[method-assign]
    start = time.process_time()
    agent.learn(agent.env_steps + agent.steps_per_iteration)
    took = time.process_time() - start
    agent.value.fit = fit  # type: ignore[method-assign]
    return took, spent[0]


def main() -> None:
    """Read the command line and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--robots", nargs="+", default=["hopper", "halfcheetah", "ant"])
    parser.add_argument("--num-envs", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60.0, help="per row")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{args.num_envs} envs, windows of 32 steps, medians\n")
    print("| robot | simulator, CPU-ms | SHAC, CPU-ms | ratio | without the critic's training |")
    print("|---|---|---|---|---|")
    for robot in args.robots:
        env, other = (
            make(f"mjx/{robot}", num_envs=args.num_envs, differentiable=True) for _ in range(2)
        )
        agent = recommended("shac", f"mjx/{robot}").make_agent(env)
        assert isinstance(agent, SHAC)
        other.reset(seed=0)
        horizon = agent.config.horizon
        simulate(other, horizon), update(agent)  # compiles
        pairs: list[tuple[float, float, float]] = []
        deadline = time.perf_counter() + args.seconds
        while len(pairs) < 3 or time.perf_counter() < deadline:
            pairs.append((simulate(other, horizon), *update(agent)))
        alone, whole = (1000 * median(pair[side] for pair in pairs) for side in (0, 1))
        ratios = [
            median(one / simulator for simulator, one in each)
            for each in ([(s, u) for s, u, _ in pairs], [(s, u - c) for s, u, c in pairs])
        ]
        print(f"| {robot} | {alone:.0f} | {whole:.0f} | {ratios[0]:.2f} | {ratios[1]:.2f} |")


if __name__ == "__main__":
    main()

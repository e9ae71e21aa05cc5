"""MuJoCo's robots stepped together against one copy after another: env steps a second.

    python examples/benchmarks/mujoco_batch.py
    python examples/benchmarks/mujoco_batch.py --robots Ant --threads 1 --seconds 5

`gymnasium/...` beside `mujoco/...`, and `mamujoco/...` with batched=False beside batched=True: the
same numbers, with the same random actions. Both sides of a row run in turns, in one process, so
that a busy machine slows both; the ratios are medians over pairs.
"""

import argparse
import time
from statistics import median

import torch

from diffsurrogate import MultiAgentVectorEnv, UsageError, make

SHARED_OUT = {
    "HalfCheetah": "HalfCheetah-6x1",
    "Walker2d": "Walker2d-6x1",
    "Ant": "Ant-4x2",
    "Hopper": "Hopper-3x1",
}


def seconds(env: MultiAgentVectorEnv, steps: int) -> tuple[float, float]:
    """Return the CPU and wall seconds of one env step, with random actions."""
    spread = env.action_high - env.action_low
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(steps):
        env.step(env.action_low + spread * torch.rand(env.num_envs, *spread.shape))
    took = (time.process_time() - cpu, time.perf_counter() - wall)
    return took[0] / (steps * env.num_envs), took[1] / (steps * env.num_envs)


def compare(slow: MultiAgentVectorEnv, fast: MultiAgentVectorEnv, args: argparse.Namespace) -> str:
    """Return the cells after the name of one row."""
    for env in (slow, fast):
        env.reset(seed=0)
        seconds(env, args.steps)
    pairs: list[tuple[tuple[float, float], tuple[float, float]]] = []
    deadline = time.perf_counter() + args.seconds
    while len(pairs) < 3 or time.perf_counter() < deadline:
        pairs.append((seconds(slow, args.steps), seconds(fast, args.steps)))
    rates = [f"{1 / median(pair[side][0] for pair in pairs):,.0f}" for side in (0, 1)]
    ratios = [median(one[kind] / other[kind] for one, other in pairs) for kind in (0, 1)]
    return " | ".join([*rates, *(f"{ratio:.2f}x" for ratio in ratios)])


def main() -> None:
    """Read the command line and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--robots", nargs="+", default=list(SHARED_OUT))
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--num-envs", type=int, default=64)
    parser.add_argument("--steps", type=int, default=10, help="of each side in turn")
    parser.add_argument("--seconds", type=float, default=10.0, help="per row")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print("| env | threads | one by one, steps per CPU-s | together | CPU ratio | wall ratio |")
    print("|---|---|---|---|---|---|", flush=True)
    for robot in args.robots:
        for threads in args.threads:
            some = {"num_envs": args.num_envs}
            fast = make(f"mujoco/{robot}-v5", threads=threads, **some)
            cells = compare(make(f"gymnasium/{robot}-v5", **some), fast, args)
            print(f"| `mujoco/{robot}-v5` | {threads} | {cells} |", flush=True)
            name = f"mamujoco/{SHARED_OUT.get(robot, robot)}"
            try:
                slow = make(name, batched=False, **some)
                fast = make(name, batched=True, threads=threads, **some)
            except UsageError:
                continue  # MaMuJoCo does not share it out, or not so that copies step together
            cells = compare(slow, fast, args)
            print(f"| `{name}` | {threads} | {cells} |", flush=True)


if __name__ == "__main__":
    main()

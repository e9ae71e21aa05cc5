"""What our PPO's updates cost beside Stable-Baselines3's and BenchMARL's, with 3 agents.

    python examples/benchmarks/ppo_speed.py
    python examples/benchmarks/ppo_speed.py --benchmarl VENV/bin/python  # with benchmarl and vmas

Same envs, windows, networks, epochs and minibatches. Stable-Baselines3 has one policy for the team,
so it is compared with ours of that kind; BenchMARL's IPPO and ours have one network per agent. Each
trainer has a process of its own, with one thread; they take turns, a window each, so that a busy
machine slows all. Times are CPU-seconds of stepping and learning; ratios are medians over rounds.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

ENVS, AGENTS, HORIZON, MAX_STEPS = 256, 3, 32, 320
EPOCHS, BATCH_SIZE, HIDDEN, LR = 4, 2048, 64, 1e-3
PAIRS = {"sb3": "ours, one policy for all", "benchmarl": "ours, one network per agent"}


def serve(window: Callable[[], object]) -> None:
    """Collect and learn for every line of standard input."""
    for _ in sys.stdin:
        start = time.process_time()
        window()
        tell(start)


def tell(start: float) -> None:
    """Print the CPU-seconds since then."""
    print(json.dumps({"window": time.process_time() - start}), flush=True)


def ours(joint: bool) -> Callable[[], object]:
    """Return a window of our PPO, or IPPO."""
    from diffsurrogate import (
        IPPO,
        PPO,
        ActorConfig,
        ClipConfig,
        CriticConfig,
        JointNetConfig,
        PPOConfig,
        SeparateNetConfig,
        make,
    )

    kind = JointNetConfig if joint else SeparateNetConfig
    net = kind(hidden=(HIDDEN, HIDDEN), activation="tanh", layer_norm=False)
    config = PPOConfig(
        horizon=HORIZON,
        gamma=0.99,
        actor=ActorConfig(net=net, learn_std=joint),
        critic=CriticConfig(net=net),
        clip=ClipConfig(epochs=EPOCHS, batch_size=BATCH_SIZE, lr=LR),
        critic_lr=LR,
    )
    env = make("vmas/dispersion", num_envs=ENVS, n_agents=AGENTS, max_steps=MAX_STEPS)
    agent = (PPO if joint else IPPO)(env, config, seed=0)
    return lambda: agent.learn(agent.env_steps + agent.steps_per_iteration)


def sb3() -> Callable[[], object]:
    """Return a window of Stable-Baselines3's PPO."""
    from stable_baselines3 import PPO

    from diffsurrogate import make
    from diffsurrogate.wrappers.sb3.export import SB3VecEnv

    env = make("vmas/dispersion", num_envs=ENVS, n_agents=AGENTS, max_steps=MAX_STEPS)
    agent = PPO(
        "MlpPolicy",
        SB3VecEnv(env),
        n_steps=HORIZON,
        batch_size=BATCH_SIZE,
        n_epochs=EPOCHS,
        learning_rate=LR,
        policy_kwargs={"net_arch": [HIDDEN, HIDDEN]},
        device="cpu",
        seed=0,
    )
    return lambda: agent.learn(ENVS * HORIZON, reset_num_timesteps=False)


def serve_benchmarl() -> None:
    """Collect and learn for every line of standard input; its loop calls back after each window."""
    from benchmarl.algorithms import IppoConfig
    from benchmarl.environments import VmasTask
    from benchmarl.experiment import Callback, Experiment, ExperimentConfig
    from benchmarl.models.mlp import MlpConfig
    from torch import nn

    start: float | None = None

    def take_turns(*_: object) -> None:
        """Wait for the next turn, once all agents have learned from a window."""
        nonlocal start
        if start is not None:
            tell(start)
        sys.stdin.readline()
        start = time.process_time()

    config = ExperimentConfig.get_from_yaml()
    settings = {
        "share_policy_params": False,
        "lr": LR,
        "on_policy_collected_frames_per_batch": ENVS * HORIZON,
        "on_policy_n_envs_per_worker": ENVS,
        "on_policy_n_minibatch_iters": EPOCHS,
        "on_policy_minibatch_size": BATCH_SIZE,
        "evaluation": False,
        "render": False,
        "loggers": [],
        "create_json": False,
    }
    for name, value in settings.items():
        setattr(config, name, value)
    algorithm = IppoConfig.get_from_yaml()
    algorithm.share_param_critic = False
    net = MlpConfig(num_cells=[HIDDEN, HIDDEN], layer_class=nn.Linear, activation_class=nn.Tanh)
    task = VmasTask.DISPERSION.get_from_yaml()
    task.config |= {"n_agents": AGENTS, "max_steps": MAX_STEPS}
    turns = Callback()
    config.save_folder = tempfile.mkdtemp()
    experiment = Experiment(
        task=task,
        algorithm_config=algorithm,
        model_config=net,
        critic_model_config=net,
        seed=0,
        config=config,
        callbacks=[turns],
    )
    turns.on_train_end = take_turns
    experiment.run()


SERVED: dict[str, Callable[[], None]] = {
    "ours, one policy for all": lambda: serve(ours(joint=True)),
    "ours, one network per agent": lambda: serve(ours(joint=False)),
    "sb3": lambda: serve(sb3()),
    "benchmarl": serve_benchmarl,
}


def compare(theirs: str, python: str, warmup: int, rounds: int) -> dict[str, Any]:
    """Return median CPU-milliseconds of a window of theirs and ours, and of the ratios."""
    from in_turns import Trainer  # not beside what is served

    trainers = [
        Trainer(python, __file__, theirs),
        Trainer(sys.executable, __file__, PAIRS[theirs]),
    ]
    turns = [[one.turn()["window"] for one in trainers] for _ in range(warmup + rounds)]
    pairs = turns[warmup:]
    for trainer in trainers:
        trainer.close()
    other, own = (1000 * median(column) for column in zip(*pairs, strict=True))
    return {
        "theirs": theirs,
        "ours": PAIRS[theirs],
        "theirs_ms": other,
        "ours_ms": own,
        "ratio": median(a / b for a, b in pairs),
    }


def main() -> None:
    """Run the pairs and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--benchmarl", help="Python interpreter with benchmarl and vmas")
    parser.add_argument(
        "--warmup", type=int, default=2, help="windows before the first that counts"
    )
    parser.add_argument("--rounds", type=int, default=8, help="windows that count, of each trainer")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--serve", choices=SERVED, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        SERVED[options.serve]()
        return
    pythons = {"sb3": sys.executable} | (
        {"benchmarl": options.benchmarl} if options.benchmarl else {}
    )
    rows = []
    print("| theirs | ours | theirs, ms | ours, ms | theirs over ours |\n|---|---|---|---|---|")
    for name, python in pythons.items():
        row = compare(name, python, options.warmup, options.rounds)
        rows.append(row)
        times = f"{row['theirs_ms']:.0f} | {row['ours_ms']:.0f} | {row['ratio']:.2f}"
        print(f"| {row['theirs']} | {row['ours']} | {times} |", flush=True)
    if options.out:
        options.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()

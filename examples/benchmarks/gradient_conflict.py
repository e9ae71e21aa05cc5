"""How noisy policy gradients are, and whether agents pull weights they share different ways.

    python examples/benchmarks/gradient_conflict.py

HyperMARL (arXiv:2412.04233) explains its results by both. IPPO trains on VMAS Dispersion with four
agents and discrete actions, each of several networks from the same seeds. Every so often it plays a
window more, cut into parts of a few envs, and each agent's part of the gradient that a first step
of PPO would take is measured on all of it:

- conflict: share of pairs of agents whose gradients point apart (cosine below 0), and their cosine;
- noise over signal: tr Σ / |g|² of the gradient of a part (arXiv:1812.06162);
- variance over weights: of the entries of the whole gradient, HyperMARL's measure.

Separate networks share nothing: their agents' gradients are orthogonal.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
from gradient_interference import (
    conflict,
    noise_scale,
    policy_gradients,
    variance_over_weights,
)

from diffsurrogate import IPPO, PPOConfig, make
from diffsurrogate.actor_critic.actor import ActorConfig, NoisyPolicy
from diffsurrogate.actor_critic.critic import CriticConfig
from diffsurrogate.config import changed_to
from diffsurrogate.functional.losses import td_lambda
from diffsurrogate.nets.config import (
    HyperLinearConfig,
    HyperMLPConfig,
    JointNetConfig,
    NetConfig,
    SeparateNetConfig,
    SharedNetConfig,
)
from diffsurrogate.training.run_folder import write_rows

RESULTS = Path(__file__).parent.parent / "results" / "gradient_conflict"
ENVS, HORIZON, PARTS = 128, 16, 8
PLAIN = JointNetConfig(hidden=(64, 64), activation="relu", layer_norm=False)
SHARED = changed_to(SharedNetConfig, PLAIN, pool_others=False)
NETS: dict[str, NetConfig] = {
    "one network (FuPS)": SHARED,
    "one network with agent indices (FuPS+ID)": replace(SHARED, agent_id=True),
    "linear hypernetwork": changed_to(HyperLinearConfig, PLAIN),
    "MLP hypernetwork": changed_to(HyperMLPConfig, PLAIN),
    "separate networks (NoPS)": changed_to(SeparateNetConfig, PLAIN),
}


def trainer(net: NetConfig, seed: int) -> IPPO:
    """Return IPPO with a network for policy and critic."""
    env = make(
        "vmas/dispersion",
        num_envs=ENVS,
        n_agents=4,
        seed=seed,
        max_steps=100,
        continuous_actions=False,
        food_radius=0.08,
        penalise_by_time=True,
    )
    config = PPOConfig.ippo()
    clip = replace(config.clip, batch_size=1024, lr=5e-4, entropy_weight=0.01)
    config = replace(config, horizon=HORIZON, clip=clip, critic_lr=5e-4)
    config = replace(config, actor=ActorConfig(net=net), critic=CriticConfig(net=net))
    return IPPO(env, config, seed=seed)


def measured(agent: IPPO) -> dict[str, float]:
    """Return what the gradient is like now; the env goes on by a window."""
    noise = agent.noise.draw(HORIZON)
    window = agent.env.collect(NoisyPolicy(agent.actor, noise), HORIZON)
    with torch.no_grad():
        value, next_value = agent.critic(window.obs), agent.critic(window.next_obs)
        ends = window.terminated, window.truncated
        gamma, lam = agent.gamma, agent.config.lam
        gain = td_lambda(window.reward, next_value, *ends, gamma=gamma, lam=lam) - value
    gain = (gain - gain.mean()) / gain.std()
    whole = policy_gradients(agent.actor, window.obs, window.action, gain)
    parts = [
        policy_gradients(agent.actor, window.obs[:, some], window.action[:, some], gain[:, some])
        for some in torch.arange(ENVS).chunk(PARTS)
    ]
    return conflict(whole) | {
        "noise_scale": float(noise_scale(torch.stack([part.sum(0) for part in parts]))),
        "variance_over_weights": float(variance_over_weights(whole.sum(0))),
    }


def run(net: NetConfig, seed: int, iterations: int, every: int) -> dict[str, Any]:
    """Train; return each measure's mean over the training, and the reward per step at its end."""
    agent = trainer(net, seed)
    found, rewards = [], []
    for metrics in agent.iterations(iterations):
        rewards.append(metrics["reward"])
        if agent.iteration % every == 0:
            found.append(measured(agent))
    means = {name: mean(one[name] for one in found) for name in found[0]}
    return {"seed": seed, "reward": mean(rewards[-every:])} | means


def page(found: dict[str, list[dict[str, Any]]], iterations: int) -> str:
    """Return the table, medians over seeds."""
    lines = [
        "# Gradients of agents that share weights\n",
        f"IPPO on VMAS Dispersion, 4 agents with discrete actions, "
        f"{iterations * ENVS * HORIZON:,} env steps, "
        f"{len(next(iter(found.values())))} seeds: means over a training, medians over seeds.",
        "Conflict is the share of pairs of agents whose gradients point apart. Noise over signal "
        f"is of the gradient of {ENVS // PARTS} envs in a window of {HORIZON} steps.",
        "Variance over weights is HyperMARL's measure; it depends on how many weights there are.\n",
        "| policy and critic | conflict | cosine | noise over signal | variance over weights "
        "| reward of a step |",
        "|---|---|---|---|---|---|",
    ]
    for name, runs in found.items():
        middle = {key: median(one[key] for one in runs) for key in runs[0] if key != "seed"}
        lines.append(
            f"| {name} | {middle['agent_conflict_share']:.2f} "
            f"| {middle['agent_gradient_cosine']:.2f} | {middle['noise_scale']:.1f} "
            f"| {middle['variance_over_weights']:.1e} | {middle['reward']:.4f} |"
        )
    return (
        "\n".join([*lines, "\nMade by `python examples/benchmarks/gradient_conflict.py`."]) + "\n"
    )


def main() -> None:
    """Run what is asked for and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", nargs="*", type=int, default=[30, 1, 42])
    parser.add_argument("--iterations", type=int, default=60, help="of 2,048 env steps each")
    parser.add_argument("--every", type=int, default=5, help="updates from measure to measure")
    parser.add_argument("--out", type=Path, default=RESULTS, help="without suffix")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    found = {
        name: [run(net, seed, asked.iterations, asked.every) for seed in asked.seeds]
        for name, net in NETS.items()
    }
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    write_rows(asked.out.with_suffix(".json"), found)
    text = page(found, asked.iterations)
    asked.out.with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()

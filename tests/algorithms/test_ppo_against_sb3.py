"""Our PPO is Stable-Baselines3's: the same advantages, loss, gradient and step."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import PPO as TheirPPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.logger import Logger
from torch import Tensor, nn

from diffsurrogate.actor_critic.actor import ActorConfig, NoisyPolicy
from diffsurrogate.actor_critic.critic import CriticConfig
from diffsurrogate.algorithms.clipped_surrogate import (
    ClipConfig,
    PolicyBatch,
    clipped_epochs,
    policy_batch,
)
from diffsurrogate.algorithms.ppo import PPO, PPOConfig
from diffsurrogate.config import changed_to
from diffsurrogate.envs.env import MultiAgentVectorEnv
from diffsurrogate.envs.registry import make
from diffsurrogate.nets.config import JointNetConfig, NetConfig, SharedNetConfig
from diffsurrogate.optimisation import ClippedAdam
from diffsurrogate.wrappers.sb3.export import SB3VecEnv

ENVS, AGENTS, HORIZON = 5, 3, 11
JOINT = JointNetConfig(hidden=(16, 8), activation="tanh", layer_norm=False)
SHARED = changed_to(SharedNetConfig, JOINT, pool_others=False)


def dispersion() -> MultiAgentVectorEnv:
    return make("paper/dispersion", num_envs=ENVS, n_agents=AGENTS, seed=3, max_steps=7)


def cartpole() -> MultiAgentVectorEnv:
    return make("gymnasium/CartPole-v1", num_envs=ENVS, max_steps=17)


def ours(env: MultiAgentVectorEnv, net: NetConfig, **clip: Any) -> PPO:
    """A PPO whose weights are not those of a new one, on raw observations and rewards."""
    config = PPOConfig(
        horizon=HORIZON,
        actor=ActorConfig(net=net, learn_std=True, normalise_obs=False, head_gain=1.0),
        critic=CriticConfig(net=net, target_decay=0.0, normalise_obs=False),
        clip=ClipConfig(epochs=1, batch_size=10_000, **clip),
        scale_rewards=False,
    )
    agent = PPO(env, config, seed=1)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in (*agent.actor.parameters(), *agent.critic.net.parameters()):
            parameter.add_(0.2 * torch.randn_like(parameter))
    return agent


# --- advantages --------------------------------------------------------------------------------


@pytest.mark.parametrize("make_env", [dispersion, cartpole])
def test_advantages_and_targets_are_theirs(make_env):
    """They add γ V(last observation) to the reward where an episode was cut."""
    env = make_env()
    agent = ours(env, JOINT)
    env.reset(seed=1)
    env.randomise_episode_phase(torch.Generator().manual_seed(0))
    noise = torch.randn(40, ENVS, env.num_agents, env.act_dim)
    window = env.collect(NoisyPolicy(agent.actor, noise), 40)
    assert (window.truncated & ~window.terminated)[:-1].any()
    if env.discrete_actions:
        assert window.terminated[:-1].any()
    target, advantage = agent._targets(window)
    with torch.no_grad():
        value, next_value = agent.critic(window.obs), agent.critic(window.next_obs)
        last = agent.critic(env.current_obs)
    slots = ENVS * env.num_agents
    buffer = RolloutBuffer(
        40, *(spaces.Box(-1, 1, (1,)),) * 2, "cpu", gae_lambda=0.95, gamma=0.99, n_envs=slots
    )
    cut = (window.truncated & ~window.terminated).unsqueeze(-1)
    buffer.rewards = (window.reward + 0.99 * next_value * cut).reshape(40, slots).numpy()
    buffer.values = value.reshape(40, slots).numpy()
    ended = window.ended.repeat_interleave(env.num_agents, dim=1).numpy()
    buffer.episode_starts[1:] = ended[:-1]
    buffer.compute_returns_and_advantage(last_values=last.reshape(-1, 1), dones=ended[-1])
    assert advantage.reshape(40, slots).numpy() == pytest.approx(buffer.advantages, abs=1e-5)
    assert target.reshape(40, slots).numpy() == pytest.approx(buffer.returns, abs=1e-5)


# --- the loss ----------------------------------------------------------------------------------


def theirs(agent: PPO, *, joint: bool, entropy_weight: float) -> TheirPPO:
    """Their PPO with the same weights, which steps down the plain gradient of the policy's loss."""
    arch = list(agent.config.actor.net.hidden)
    model = TheirPPO(
        "MlpPolicy",
        SB3VecEnv(agent.env, joint=joint),
        learning_rate=1.0,
        n_steps=HORIZON,
        batch_size=HORIZON * (ENVS if joint else ENVS * agent.env.num_agents),
        n_epochs=1,
        ent_coef=entropy_weight,
        vf_coef=0.0,
        max_grad_norm=1e9,
        policy_kwargs={"net_arch": arch, "optimizer_class": torch.optim.SGD},
        device="cpu",
    )
    model.set_logger(Logger(folder=None, output_formats=[]))
    pairs = zip(their_layers(model), our_layers(agent), strict=True)
    with torch.no_grad():
        for mine, own in pairs:
            mine.weight.copy_(own.weight)
            mine.bias.copy_(own.bias)
        if not agent.env.discrete_actions:
            model.policy.log_std.copy_(our_log_std(agent, model))
    return model


def our_layers(agent: PPO) -> list[nn.Linear]:
    return [layer for layer in agent.actor.net.net if isinstance(layer, nn.Linear)]


def their_layers(model: TheirPPO) -> list[nn.Linear]:
    hidden = [x for x in model.policy.mlp_extractor.policy_net if isinstance(x, nn.Linear)]
    return [*hidden, model.policy.action_net]


def our_log_std(agent: PPO, model: TheirPPO) -> Tensor:
    """Ours is one per feature for all agents, theirs one per feature of a slot."""
    repeats = len(model.policy.log_std) // len(agent.actor.log_std)
    return agent.actor.log_std.detach().repeat(repeats)


def fill(model: TheirPPO, past: PolicyBatch, *, joint: bool, discrete: bool) -> None:
    """Put what we collected into their buffer; a joint slot has one advantage, the mean."""
    buffer = model.rollout_buffer
    buffer.reset()
    slots = buffer.n_envs
    action = past.action.argmax(-1, keepdim=True).float() if discrete else past.action
    buffer.observations = past.obs.reshape(HORIZON, slots, -1).numpy().copy()
    buffer.actions = action.reshape(HORIZON, slots, -1).numpy().copy()
    log_prob = past.log_prob.sum(-1) if joint else past.log_prob.flatten(1)
    advantage = past.advantage.mean(-1) if joint else past.advantage.flatten(1)
    buffer.log_probs, buffer.advantages = log_prob.numpy().copy(), advantage.numpy().copy()
    buffer.values = buffer.returns = np.zeros((HORIZON, slots), np.float32)
    buffer.full, buffer.generator_ready = True, False


@pytest.mark.parametrize("entropy_weight", [0.0, 0.1])
@pytest.mark.parametrize(
    ("make_env", "net", "joint"),
    [(dispersion, JOINT, True), (dispersion, SHARED, False), (cartpole, JOINT, True)],
    ids=["one net, joint ratio", "shared weights, ratio per agent", "discrete actions"],
)
def test_one_step_down_the_loss_is_theirs(make_env, net, joint, entropy_weight):
    env = make_env()
    ratio = "joint" if joint else "per_agent"
    agent = ours(env, net, ratio=ratio, advantage="individual", entropy_weight=entropy_weight)
    env.reset(seed=1)
    noise = torch.randn(HORIZON, ENVS, env.num_agents, env.act_dim)
    window = env.collect(NoisyPolicy(agent.actor, noise), HORIZON)
    advantage = torch.randn(HORIZON, ENVS, env.num_agents)
    past = policy_batch(window, agent.actor, advantage)
    # as if the policy had moved since: ratios on both sides of both limits
    past = replace(past, log_prob=past.log_prob + 0.2 * torch.randn_like(past.log_prob))
    model = theirs(agent, joint=joint, entropy_weight=entropy_weight)
    fill(model, past, joint=joint, discrete=env.discrete_actions)
    before = [layer.weight.detach().clone() for layer in their_layers(model)]

    optimiser = ClippedAdam(agent.actor, 1.0, max_grad_norm=1e9)
    optimiser.adam = torch.optim.SGD(optimiser.weights, lr=1.0, fused=True)
    report = clipped_epochs(
        agent.actor,
        past,
        config=agent.config.clip,
        generator=torch.Generator(),
        optimiser=optimiser,
    )
    model.train()
    logged = model.logger.name_to_value
    assert report["clipped_loss"] == pytest.approx(logged["train/loss"], abs=1e-5)
    assert report["kl"] == pytest.approx(logged["train/approx_kl"], abs=1e-5)
    assert report["clipped_share"] == pytest.approx(logged["train/clip_fraction"])
    assert 0.1 < report["clipped_share"] < 0.9
    for old, mine, own in zip(before, their_layers(model), our_layers(agent), strict=True):
        assert (mine.weight - old).abs().max() > 1e-4
        torch.testing.assert_close(own.weight, mine.weight, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(own.bias, mine.bias, atol=1e-5, rtol=1e-5)
    if not joint:
        torch.testing.assert_close(
            our_log_std(agent, model), model.policy.log_std.detach(), atol=1e-5, rtol=1e-5
        )

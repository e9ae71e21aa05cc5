"""Whole trainings with memory, on a task that needs one."""

from dataclasses import replace

import pytest
import torch
from toys.masked import MaskedReach
from toys.reach import learned_reach
from toys.recall import Recall
from toys.recurrent import PLAIN, dispersion, settings

from diffsurrogate.actor_critic.actor import ActorConfig
from diffsurrogate.algorithms.clipped_surrogate import ClipConfig
from diffsurrogate.algorithms.ppo import IPPO, PPO
from diffsurrogate.training.evaluate import evaluate


@pytest.mark.parametrize(
    "architecture", ["joint", "separate", "shared", "hyper-linear", "hyper-mlp"]
)
@pytest.mark.parametrize("make_env", [learned_reach, dispersion, MaskedReach])
def test_every_update_trains_the_recurrent_weights(make_env, architecture):
    net = replace(PLAIN, architecture=architecture, gru_size=5)
    start = settings()
    clip = replace(start.clip, entropy_weight=0.01)
    config = replace(
        start, actor=replace(start.actor, net=net), critic=replace(start.critic, net=net), clip=clip
    )
    agent = PPO(make_env(), config)
    nets = (agent.actor.net, agent.critic.net)
    before = [net.memory.carry.weight.detach().clone() for net in nets]
    for report in agent.iterations(3):
        assert all(torch.isfinite(torch.tensor(value)) for value in report.values())
    for net, weight in zip(nets, before, strict=True):
        assert not torch.equal(net.memory.carry.weight, weight)
    assert agent.skipped == 0


@pytest.mark.parametrize("architecture", ["separate", "hyper-mlp"])
def test_only_a_recurrent_policy_solves_recall(architecture):
    """Of three agents, all are right; by chance, half. Episodes begin and end inside windows."""

    def trained(memory: int) -> float:
        net = replace(
            PLAIN, architecture=architecture, hidden=(16,), pool_others=False, gru_size=memory
        )
        start = settings(IPPO, horizon=12, critic_lr=5e-3)
        clip = ClipConfig(batch_size=256, lr=5e-3)
        config = replace(
            start,
            actor=ActorConfig(net=net, head_gain=0.01),
            critic=replace(start.critic, net=net),
            clip=clip,
        )
        agent = IPPO(Recall(num_envs=64), config, seed=1).learn(12 * 12 * 64)
        evaluate_actions = Recall(num_envs=501)
        share = evaluate(agent.policy(evaluate_actions), evaluate_actions, seed=1).normalised_return
        assert share is not None
        return share

    assert trained(16) >= 0.95
    assert trained(0) <= 0.6

"""PPO, IPPO and MAPPO: ratios, targets, advantages, learning rates, and what they refuse."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from toys.reach import AGENTS, ENVS, NET, OBS, Reach
from toys.recurrent import cartpole, dispersion
from toys.trainers import clipped, plain_reach

from diffsurrogate.actor_critic.actor import Actor, ActorConfig, NoisyPolicy
from diffsurrogate.actor_critic.exploration import NoiseConfig, NoiseProcess
from diffsurrogate.algorithms.clipped_surrogate import ClipConfig, clipped_epochs, policy_batch
from diffsurrogate.algorithms.ppo import IPPO, MAPPO, PPO, PPOConfig
from diffsurrogate.envs.env import MultiAgentVectorEnv
from diffsurrogate.training.optimisation import ClippedAdam

# --- the ratio ---------------------------------------------------------------------------------


def moved_actor(env: MultiAgentVectorEnv, **kwargs: Any) -> Actor:
    """As after some updates: statistics and weights are not where they started."""
    torch.manual_seed(0)
    config = ActorConfig(net=NET, head_gain=1.0, std=0.8, **kwargs)
    box = env.action_low, env.action_high
    policy = Actor(config, env.num_agents, env.obs_dim, *box, discrete=env.discrete_actions)
    policy.statistics.update(3 * torch.randn(101, env.num_agents, env.obs_dim))
    policy.statistics.snapshot()
    return policy


@pytest.mark.parametrize("learn_std", [False, True])
@pytest.mark.parametrize(
    ("make_env", "kind"), [(dispersion, "white"), (dispersion, "ou"), (cartpole, "white")]
)
def test_the_ratio_of_an_unchanged_policy_is_1(make_env, kind, learn_std):
    """On collected windows, over episode ends and actions that the env clamped."""
    env = make_env()
    env.reset(seed=1)
    policy = moved_actor(env, learn_std=learn_std)
    shape = (ENVS, env.num_agents, env.act_dim)
    noise = NoiseProcess(NoiseConfig(kind=kind), shape, torch.Generator().manual_seed(0))
    for _ in range(2):  # correlated noise goes on
        drawn, memory = noise.draw_with_state(11)
        window = env.collect(NoisyPolicy(policy, drawn), 11)
        beyond = (window.action < env.action_low) | (window.action > env.action_high)
        assert env.discrete_actions or beyond.float().mean() > 0.1
        assert window.ended.any()
        past = policy_batch(window, policy, torch.randn(11, ENVS, env.num_agents), memory)
        ratios: list[Tensor] = []
        for chosen in torch.randperm(11 * ENVS).split(13):
            known = None if memory is None else memory.flat().at(chosen)
            flat = [x.flatten(0, 1)[chosen] for x in (past.obs, past.action, past.log_prob)]
            ratios.append((policy.log_prob(flat[0], flat[1], known) - flat[2]).exp())
        assert (torch.cat(ratios) - 1).abs().max() < 1e-5
        report = clipped_epochs(
            policy,
            past,
            config=ClipConfig(epochs=2, batch_size=13),
            generator=torch.Generator(),
            optimiser=ClippedAdam(policy, 0.0, max_grad_norm=1.0),
        )
        assert report["clipped_share"] == 0.0


# --- who sees what -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "actor_sees", "critic_sees"),
    [(PPO, True, True), (IPPO, False, False), (MAPPO, False, True)],
)
def test_actor_and_critic_see_the_agents_their_method_says(kind, actor_sees, critic_sees):
    agent = kind(plain_reach())
    with torch.no_grad():
        agent.critic.net.head.weight.normal_()
    obs = torch.randn(1, AGENTS, OBS, requires_grad=True)
    for net, sees in ((agent.actor, actor_sees), (agent.critic, critic_sees)):
        (grad,) = torch.autograd.grad(net(obs)[0, 0].sum(), obs)
        assert grad[0].any(-1).tolist() == [True, sees, sees]


def test_advantage_and_ratio_are_the_methods_own():
    clip = PPOConfig().clip
    assert (clip.ratio, clip.advantage) == ("joint", "shared")
    clip = PPOConfig.ippo().clip
    assert (clip.ratio, clip.advantage) == ("per_agent", "individual")
    assert PPOConfig.mappo().clip == clip


def test_an_independent_agent_learns_nothing_from_others_rewards():
    class Paid(Reach):
        """Agent 2 earns a hundred times as much."""

        factor = 1.0

        def reward(self, *args: Any) -> Tensor:
            return super().reward(*args) * torch.tensor([1.0, 1.0, self.factor])

    def trained(kind: type[PPO], factor: float) -> Tensor:
        env = Paid(differentiable=False)
        env.factor = factor
        clip = replace(kind.default_config().clip, normalise=False, max_grad_norm=1e9, epochs=1)
        agent = kind(env, clipped(kind, clip=clip, scale_rewards=False), seed=1).learn(56)
        return agent.actor(torch.ones(1, AGENTS, OBS))[0]

    mine, theirs = trained(IPPO, 1.0), trained(IPPO, 100.0)
    torch.testing.assert_close(mine[:2], theirs[:2], atol=1e-5, rtol=1e-5)
    assert (trained(PPO, 1.0) - trained(PPO, 100.0))[:2].abs().max() > 1e-4



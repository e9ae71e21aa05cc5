"""PPO, IPPO and MAPPO, with memory and without: ratios, targets, who sees what, acting."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from toys.masked import MaskedReach, closed_choices
from toys.reach import AGENTS, ENVS, NET, OBS, Reach, learned_reach, same
from toys.recurrent import HORIZON, KINDS, PLAIN, cartpole, dispersion, settings
from toys.trainers import clipped, plain_reach

from diffsurrogate.actor_critic.actor import Actor, ActorConfig, NoisyPolicy
from diffsurrogate.actor_critic.autoregressive import build_actor
from diffsurrogate.actor_critic.diversity import policy_diversity, visited
from diffsurrogate.actor_critic.exploration import NoiseConfig, NoiseProcess
from diffsurrogate.actor_critic.hidden_states import critic_past
from diffsurrogate.actor_critic.recurrent import RecurrentActor
from diffsurrogate.algorithms.clipped_surrogate import (
    ClipConfig,
    clipped_epochs,
    in_own_units,
    policy_batch,
)
from diffsurrogate.algorithms.ppo import IPPO, MAPPO, PPO, PPOConfig
from diffsurrogate.envs.env import MultiAgentVectorEnv
from diffsurrogate.envs.registry import make
from diffsurrogate.errors import UsageError
from diffsurrogate.nets.recurrent import Recurrence
from diffsurrogate.optimisation import ClippedAdam
from diffsurrogate.training.evaluate import evaluate
from diffsurrogate.wrappers.split_agents import SplitAgents

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


# --- with memory: the ratio ----------------------------------------------------------------------


@pytest.mark.parametrize("make_env", [plain_reach, dispersion, cartpole, MaskedReach])
@pytest.mark.parametrize("kind", list(KINDS.values()), ids=list(KINDS))
def test_the_ratio_of_an_unchanged_policy_with_memory_is_1(make_env, kind):
    """Window after window, as it acted step by step: of whole windows of any envs, over resets."""
    agent, ended = kind(make_env(), settings(kind)), 0
    agent.env.reset(seed=1)
    agent.env.randomise_episode_phase(agent.minibatch_rng)
    for _ in range(4):
        obs = agent.env.current_obs
        window = agent._collect(agent.noise.draw(HORIZON))
        advantage = torch.randn(HORIZON, ENVS, agent.env.num_agents)
        past = policy_batch(window, agent.actor, advantage)
        parts = list(past.minibatches(ClipConfig(epochs=2, batch_size=13), agent.minibatch_rng))
        assert [part.log_prob.shape[1] for part in parts] == [2, 2, 2, 1] * 2
        for part in parts:
            new = agent.actor.log_prob(part.obs, part.action, past=part.past)
            assert ((new - part.log_prob).exp() - 1).abs().max() < 1e-5
        assert torch.equal(window.obs[0], obs)
        ended += int(window.ended[:-1].sum())
        agent.actor.update_normaliser(window.obs)
        agent.actor.freeze_normaliser(agent.minibatch_rng)
    assert ended > 5


# --- targets -------------------------------------------------------------------------------------


@pytest.mark.parametrize("make_env", [plain_reach, cartpole])
def test_values_equal_those_of_a_critic_stepped_through_every_episode(make_env):
    """Env by env and step by step, over window borders; the end is seen before the reset."""
    agent = MAPPO(make_env(), settings(MAPPO))
    agent.env.reset(seed=1)
    agent.env.randomise_episode_phase(agent.minibatch_rng)
    with torch.no_grad():
        agent.critic.net.net.head.weight.normal_()
    shape = (1, agent.env.num_agents, 9)
    lived = [torch.zeros(shape) for _ in range(ENVS)]
    cut = 0
    for _ in range(4):
        window = agent._collect(agent.noise.draw(HORIZON))
        with torch.no_grad():
            around = window.obs, window.next_obs, critic_past(window)
            value, next_value = agent.critic.values_around(*around)
            for step in range(HORIZON):
                for env in range(ENVS):
                    seen = window.obs[step : step + 1, env : env + 1]
                    led_to = window.next_obs[step : step + 1, env : env + 1]
                    before = Recurrence(hidden=lived[env], episode_start=torch.zeros(1, 1) > 0)
                    expected = agent.critic(seen, before)
                    torch.testing.assert_close(value[step, env], expected[0, 0])
                    after = agent.critic.hidden_along(seen, before)
                    expected = agent.critic(led_to, Recurrence.after(after[0]))
                    torch.testing.assert_close(next_value[step, env], expected[0, 0])
                    over = bool(window.ended[step, env])
                    lived[env] = torch.zeros(shape) if over else after[0]
        cut += int(window.ended.sum())
        continue_prob = ~window.ended[:-1]
        torch.testing.assert_close(next_value[:-1][continue_prob], value[1:][continue_prob])
    assert cut > 5


def test_the_graph_does_not_cross_windows():
    agent = PPO(plain_reach(), settings()).learn(2 * HORIZON * ENVS)
    assert set(agent.hidden.now) == {"actor", "critic"}
    assert all(not hidden.requires_grad and hidden.any() for hidden in agent.hidden.now.values())


# --- where episodes begin ------------------------------------------------------------------------


def split_cartpole() -> SplitAgents:
    env = make("diffsurrogate/cartpole-swingup", num_envs=ENVS, max_steps=5)
    return SplitAgents(env, actions={"a": [0]})


@pytest.mark.parametrize("make_env", [learned_reach, split_cartpole])
def test_a_wrapper_marks_episode_starts(make_env):
    env = make_env()
    env.reset(seed=1)
    env.randomise_episode_phase(torch.Generator().manual_seed(0))
    assert env.episode_start.shape == (ENVS,) and env.episode_start.all()
    action = torch.zeros(ENVS, env.num_agents, env.act_dim)
    seen = torch.zeros(ENVS, dtype=torch.bool)
    for _ in range(14):
        _, _, terminated, truncated, _ = env.step(action)
        assert torch.equal(env.episode_start, terminated | truncated)
        seen |= env.episode_start
    assert seen.all()
    env.reset()
    assert env.episode_start.all()


# --- acting --------------------------------------------------------------------------------------


def test_a_policy_keeps_one_hidden_state_per_env_and_resets_it_at_episode_starts():
    """Two envs at once, each as if it were alone; actions are in the box."""
    agent = IPPO(plain_reach(), settings(IPPO)).learn(4 * HORIZON * ENVS)
    results = []
    for together in (True, False):
        envs = [Reach(num_envs=count, differentiable=False) for count in (2, 11)]
        policies = [agent.policy(env) for env in envs]
        rows: list[list[Tensor]] = [[], []]
        for index, env in enumerate(envs):
            env.reset(seed=index)
        order = [0, 1] * 20 if together else [0] * 20 + [1] * 20
        for index in order:
            obs = envs[index].current_obs
            rows[index].append(policies[index](obs))
            envs[index].step(rows[index][-1])
        results.append([torch.stack(row) for row in rows])
        assert all(action.abs().max() <= 1 for action in results[-1])
    assert same(*results)


def test_evaluation_is_deterministic_whatever_came_before():
    agent = IPPO(plain_reach(), settings(IPPO)).learn(4 * HORIZON * ENVS)
    env = plain_reach()
    policy = agent.policy(env)
    first = evaluate(policy, env, seed=7).returns
    visited(policy, env, steps=3)
    assert torch.equal(evaluate(policy, env, seed=7).returns, first)
    assert torch.equal(evaluate(agent.policy(env), env, seed=7).returns, first)
    again = plain_reach()
    assert torch.equal(evaluate(agent.policy(again), again, seed=7).returns, first)


def test_without_memory_the_policy_of_any_env_is_predict():
    agent = PPO(plain_reach(), settings(gru_size=(0, 9)))
    obs = torch.randn(ENVS, AGENTS, 5)
    assert torch.equal(agent.policy(plain_reach())(obs), agent.predict(obs))
    assert agent.learn(2 * HORIZON * ENVS).hidden.now.keys() == {"critic"}


def test_the_ema_policy_is_recurrent_too():
    agent = IPPO(plain_reach(), settings(IPPO, ema_decay=0.9)).learn(3 * HORIZON * ENVS)
    env = plain_reach()
    env.reset(seed=1)
    actor = agent.predictor
    assert isinstance(actor, RecurrentActor) and actor is not agent.actor
    expected, _ = actor.act_next(env.current_obs, None, actor.nothing(ENVS), env.episode_start)
    torch.testing.assert_close(agent.policy(env)(env.current_obs), expected.clamp(-1, 1))


def test_predict_without_a_hidden_state_is_refused():
    agent = IPPO(plain_reach(), settings(IPPO))
    obs = torch.zeros(ENVS, AGENTS, 5)
    with pytest.raises(UsageError, match=r"policy\(env\)"):
        agent.actor.log_prob(obs, obs[..., :2])
    with pytest.raises(UsageError, match="depends on earlier observations"):
        policy_diversity(agent.predictor, obs)
    with pytest.raises(UsageError, match="give that env's current_obs"):
        agent.policy(Reach(num_envs=2))(obs)


def test_masked_actions_are_never_taken_and_policies_do_not_see_the_state():
    env = MaskedReach()
    agent = MAPPO(env, settings(MAPPO)).learn(6 * HORIZON * ENVS)
    policy = agent.policy(env)
    for _ in range(20):
        action = policy(env.current_obs)
        assert closed_choices(env, env.current_obs, action) == 0
        env.step(action)
    assert env.taken > 0 and env.closed == 0
    obs, actor = env.current_obs, agent.actor
    assert isinstance(actor, RecurrentActor)
    other = obs.clone()
    other[..., env.global_state_slice] = 7.0
    hidden = agent.hidden.now["actor"]
    one, two = (actor.act_next(seen, None, hidden, env.episode_start)[1] for seen in (obs, other))
    assert torch.equal(one, two)


def test_densities_and_entropies_are_those_of_the_outputs():
    env = plain_reach()
    env.reset(seed=1)
    actor = build_actor(ActorConfig(net=replace(PLAIN, gru_size=5), learn_std=True), env)
    assert isinstance(actor, RecurrentActor)
    obs, action = torch.randn(HORIZON, ENVS, AGENTS, 5), torch.randn(HORIZON, ENVS, AGENTS, 2)
    episode_start = torch.zeros(HORIZON, ENVS, dtype=torch.bool)
    past = Recurrence(hidden=actor.nothing(ENVS), episode_start=episode_start)
    log_prob, entropy = actor.evaluate_actions(obs, action, past=past)
    mean, _ = actor.unroll(obs, past)
    normal = torch.distributions.Normal(mean, actor.log_std.exp())
    torch.testing.assert_close(log_prob, normal.log_prob(action).sum(-1))
    torch.testing.assert_close(entropy, normal.entropy().sum(-1).expand_as(entropy))


def test_an_agent_of_small_advantages_is_not_drowned_by_the_others():
    """Agent 0's are brought to the deviation of all, unless it is dead; those of 1 and 2 stay."""
    gain = torch.randn(61, 3, generator=torch.Generator().manual_seed(0))
    gain = gain * torch.tensor([1e-3, 1.0, 2.0]) + torch.tensor([5.0, 0.0, 0.0])
    brought = in_own_units(gain, None)
    assert torch.equal(brought[:, 1:], gain[:, 1:])
    of_all = gain.std(correction=0)
    assert brought[:, 0].std(correction=0).item() == pytest.approx(of_all.item(), rel=1e-3)
    assert brought[:, 0].mean().item() == pytest.approx(0.0, abs=0.01)
    alive = torch.ones(61, 3, dtype=torch.bool)
    alive[:, 0] = False
    assert torch.equal(in_own_units(gain, alive), gain)


@pytest.mark.parametrize("unit", [1.0, 1e-4])
def test_ippo_teaches_every_agent_whatever_the_unit_of_its_rewards(unit):
    class Units(Reach):
        def reward(self, state: Any, action: Tensor, next_state: Any) -> Tensor:
            return super().reward(state, action, next_state) * torch.tensor([unit, 1.0, 1.0])

    env = Units(num_envs=64)
    agent = IPPO(env, seed=0).learn(9 * 64 * 32)
    obs, _ = env.reset(seed=1)
    towards = -(agent.predict(obs) * obs[..., :2].sign()).mean((0, 2))
    assert (towards > 0.2).all(), towards

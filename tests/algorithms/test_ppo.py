"""PPO, IPPO and MAPPO: ratios, targets, credit, saving, and what they refuse."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jaxtyping
import pytest
import torch
from torch import Tensor
from toys.reach import AGENTS, ENVS, HORIZON, NET, OBS, Reach, learned_reach, same, weights

from diffsurrogate.actor_critic.actor import Actor, ActorConfig, NoisyPolicy
from diffsurrogate.actor_critic.critic import CriticConfig
from diffsurrogate.actor_critic.exploration import NoiseConfig, NoiseProcess
from diffsurrogate.algorithms.clipped_surrogate import ClipConfig, clipped_epochs, policy_batch
from diffsurrogate.algorithms.ppo import IPPO, MAPPO, PPO, PPOConfig
from diffsurrogate.algorithms.shac import SHACConfig
from diffsurrogate.envs.env import MultiAgentVectorEnv
from diffsurrogate.envs.registry import make
from diffsurrogate.envs.window import Window
from diffsurrogate.errors import UsageError

DEVICES = [
    "cpu",
    pytest.param(
        "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
    ),
]
KINDS = {"ppo": PPO, "ippo": IPPO, "mappo": MAPPO}


def dispersion() -> MultiAgentVectorEnv:
    return make("paper/dispersion", num_envs=ENVS, n_agents=AGENTS, seed=3, max_steps=5)


def cartpole(num_envs: int = ENVS, max_steps: int = 13) -> MultiAgentVectorEnv:
    return make("gymnasium/CartPole-v1", num_envs=num_envs, max_steps=max_steps)


def plain_reach() -> MultiAgentVectorEnv:
    return Reach(differentiable=False)


def settings(kind: type[PPO] = PPO, **kwargs: Any) -> PPOConfig:
    """Windows of 28 states, minibatches of 13, 13 and 2."""
    start = kind.default_config()
    clip = replace(start.clip, epochs=2, batch_size=13)
    return replace(start, **({"horizon": HORIZON, "clip": clip} | kwargs))


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
        if not env.discrete_actions:
            beyond = (window.action < env.action_low) | (window.action > env.action_high)
            assert beyond.float().mean() > 0.1
            # unit noise, whose density is known, scaled by σ
            known, left = (0.0, 1.0) if memory is None else (memory.carried, memory.fresh)
            unit = torch.distributions.Normal(known, left).log_prob(drawn)
            expected = (unit - policy.log_std.detach()).sum(-1)
            advantage = torch.randn(11, ENVS, env.num_agents)
            past = policy_batch(window, policy, advantage, memory)
            torch.testing.assert_close(past.log_prob, expected, atol=1e-3, rtol=1e-4)
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
            descend=lambda loss: 0.0,
        )
        assert report["clipped_share"] == 0.0


# --- targets -----------------------------------------------------------------------------------


def constant_critic(agent: PPO, value: float) -> None:
    with torch.no_grad():
        for parameter in agent.critic.net.parameters():
            parameter.zero_()
        agent.critic.net.head.bias.fill_(value)


@pytest.mark.parametrize(
    ("terminated", "truncated", "target"),
    [
        (True, False, 1.0),
        (True, True, 1.0),
        (False, True, 1 + 0.9 * 10),
        # 1 + 0.9 (½ 10 + ½ G), G = 1 + 0.9 * 10
        (False, False, 1 + 0.9 * (5 + 0.5 * 10)),
    ],
    ids=["terminated", "both", "truncated", "goes on"],
)
def test_only_termination_takes_the_future_away(terminated, truncated, target):
    """Rewards 1, values 10, γ = 0.9, λ = ½: the first of two steps ends in env 4 alone."""
    agent = PPO(plain_reach(), settings(gamma=0.9, lam=0.5, scale_rewards=False))
    constant_critic(agent, 10.0)
    obs, action = torch.zeros(2, ENVS, AGENTS, OBS), torch.zeros(2, ENVS, AGENTS, 2)
    ends = torch.zeros(2, 2, ENVS, dtype=torch.bool)
    ends[:, 0, 4] = torch.tensor([terminated, truncated])
    window = Window(
        obs=obs,
        action=action,
        reward=torch.ones(2, ENVS, AGENTS),
        next_obs=obs,
        terminated=ends[0],
        truncated=ends[1],
    )
    targets, advantage = agent._targets(window)
    assert targets[0, 4].tolist() == pytest.approx([target] * AGENTS)
    assert targets[0, 3].tolist() == pytest.approx([10.0] * AGENTS)
    assert targets[1].flatten().tolist() == pytest.approx([10.0] * ENVS * AGENTS)
    torch.testing.assert_close(advantage, targets - 10)


def test_scaled_rewards_have_targets_of_order_1():
    class Rich(Reach):
        def reward(self, *args: Any) -> Tensor:
            return 1e6 * super().reward(*args)

    def target(env: MultiAgentVectorEnv, scale_rewards: bool) -> float:
        agent = PPO(
            env, settings(scale_rewards=scale_rewards, randomise_episode_phase=False), seed=1
        )
        return next(agent.iterations(1))["value_target"]

    poor, rich = (target(kind(differentiable=False), True) for kind in (Reach, Rich))
    assert rich == pytest.approx(poor, rel=1e-5)
    assert -3 < rich < -0.1
    assert target(Rich(differentiable=False), False) < -1e5


# --- who sees what -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "actor_sees", "critic_sees"),
    [(PPO, True, True), (IPPO, False, False), (MAPPO, False, True)],
)
def test_who_sees_the_other_agents(kind, actor_sees, critic_sees):
    agent = kind(plain_reach())
    with torch.no_grad():
        agent.critic.net.head.weight.normal_()
    obs = torch.randn(1, AGENTS, OBS, requires_grad=True)
    for net, sees in ((agent.actor, actor_sees), (agent.critic, critic_sees)):
        (grad,) = torch.autograd.grad(net(obs)[0, 0].sum(), obs)
        assert grad[0].any(-1).tolist() == [True, sees, sees]


def test_credit_and_ratio_are_the_methods_own():
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
        agent = kind(env, settings(kind, clip=clip, scale_rewards=False), seed=1).learn(56)
        return agent.actor(torch.ones(1, AGENTS, OBS))[0]

    mine, theirs = trained(IPPO, 1.0), trained(IPPO, 100.0)
    torch.testing.assert_close(mine[:2], theirs[:2], atol=1e-5, rtol=1e-5)
    assert (trained(PPO, 1.0) - trained(PPO, 100.0))[:2].abs().max() > 1e-4


# --- updates -----------------------------------------------------------------------------------


METRICS = {
    *("clipped_loss", "clipped_gradient_norm", "kl", "clipped_share", "critic_loss"),
    *("skipped_updates", "reward", "value_target", "episodes_ended", "episodes_terminated"),
    *("env_steps", "update_cpu_seconds"),
}


@pytest.mark.parametrize("kind", list(KINDS.values()), ids=list(KINDS))
@pytest.mark.parametrize("make_env", [plain_reach, learned_reach, dispersion, cartpole])
def test_every_update_reports_finite_numbers(make_env, kind):
    agent = kind(make_env(), settings(kind, randomise_episode_phase=False))
    reports = list(agent.iterations(3))
    assert set(reports[-1]) >= METRICS
    for report in reports:
        assert all(torch.isfinite(torch.tensor(value)) for value in report.values())
    assert [report["env_steps"] for report in reports] == [28.0, 56.0, 84.0]


def test_a_wrapped_env_trains_its_models_by_the_way():
    agent = PPO(learned_reach(), settings())
    reports = list(agent.iterations(4))
    assert {"reward_error", "dynamics_error"} <= set(reports[-1])


def test_terminations_are_told_from_time_limits():
    agent = PPO(cartpole(max_steps=17), settings(horizon=40, randomise_episode_phase=False))
    (report,) = agent.iterations(1)
    ended, terminated = report["episodes_ended"], report["episodes_terminated"]
    assert 0 < terminated < ended


def test_learning_rates_fall_linearly():
    agent, seen = PPO(plain_reach(), settings(schedule="linear", critic_lr=0.02)), []
    for _ in agent.iterations(4):
        optimisers = (agent.actor_optimiser, agent.critic_optimiser)
        seen.append([optimiser.param_groups[0]["lr"] for optimiser in optimisers])
    expected = [[1e-3 * left, 0.02 * left] for left in (1, 0.75, 0.5, 0.25)]
    assert seen == [pytest.approx(pair) for pair in expected]


def test_one_infinite_reward_does_not_end_the_training():
    class Spike(Reach):
        def step(self, actions: Tensor) -> Any:  # as a wrapper might: the env checks its own
            obs, reward, *rest = super().step(actions)
            return obs, reward / 0 if self.broken else reward, *rest

    def callback(trainer: PPO, metrics: dict[str, float]) -> None:
        trainer.env.broken = trainer.iteration == 2

    config = settings(scale_rewards=False)
    agent = PPO(Spike(differentiable=False), config).learn(6 * 28, callback)
    assert all(torch.isfinite(value).all() for value in weights(agent))
    assert agent.skipped > 0


def test_the_seed_decides_everything_and_the_global_stream_nothing():
    def trained(seed: int, around: int) -> list[Tensor]:
        torch.manual_seed(around)
        state = torch.get_rng_state()
        agent = PPO(plain_reach(), settings(), seed=seed).learn(84)
        assert torch.equal(torch.get_rng_state(), state)
        return weights(agent)

    assert same(trained(1, around=0), trained(1, around=5))
    assert not same(trained(1, around=0), trained(2, around=0))


# --- saving ------------------------------------------------------------------------------------


@pytest.mark.parametrize("make_env", [plain_reach, learned_reach, dispersion])
@pytest.mark.parametrize("kind", list(KINDS.values()), ids=list(KINDS))
def test_a_loaded_trainer_ends_where_the_unbroken_one_does(tmp_path, make_env, kind):
    path, config = tmp_path / "agent.pt", settings(kind, schedule="linear")
    unbroken, broken = (kind(make_env(), config, seed=3) for _ in range(2))
    unbroken.learn(5 * 28)
    broken.learn(5 * 28, lambda agent, metrics: agent.iteration < 3).save(path)
    env = make_env()
    env.reset(seed=11)
    loaded = kind.load(path, env)
    assert (loaded.iteration, loaded.seed, loaded.config) == (3, 3, config)
    assert same(weights(loaded), weights(broken))
    loaded.learn(5 * 28)
    assert same(weights(loaded), weights(unbroken))
    assert not same(weights(loaded), weights(broken))
    assert torch.equal(loaded.env.current_obs, unbroken.env.current_obs)
    assert torch.equal(loaded.scale.running, unbroken.scale.running)
    moments = [agent.actor_optimiser.state_dict()["state"] for agent in (loaded, unbroken)]
    assert repr(moments[0]) == repr(moments[1])


def test_an_env_that_saves_no_state_starts_new_episodes(tmp_path):
    agent = PPO(cartpole(), settings()).learn(84)
    agent.save(tmp_path / "agent.pt")
    loaded = PPO.load(tmp_path / "agent.pt", cartpole())
    assert same(weights(loaded), weights(agent))
    assert loaded.env.current_obs.abs().max() < 0.05  # CartPole's start
    assert loaded.learn(112).update == 4


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", list(KINDS.values()), ids=list(KINDS))
def test_updates_saving_and_loading_work_on_every_device(tmp_path, device, kind):
    agent = kind(Reach(differentiable=False, device=device), settings(kind)).learn(56)
    agent.save(tmp_path / "agent.pt")
    loaded = kind.load(tmp_path / "agent.pt", Reach(differentiable=False, device=device))
    obs = loaded.env.current_obs
    assert obs.device.type == device
    assert torch.equal(loaded.predict(obs), agent.predict(obs))
    assert loaded.learn(112).predict(obs, deterministic=False).device.type == device


OTHERS: dict[str, Callable[[], tuple[MultiAgentVectorEnv, PPOConfig]]] = {
    "agents": lambda: (Reach(agents=2), settings()),
    "envs": lambda: (Reach(num_envs=11), settings()),
    "critic": lambda: (plain_reach(), settings(critic=CriticConfig(net=NET))),
    "epochs": lambda: (plain_reach(), settings(clip=ClipConfig(epochs=7))),
    "choices": lambda: (cartpole(), settings()),
}


@pytest.mark.parametrize("other", list(OTHERS))
def test_a_checkpoint_of_another_kind_is_refused(tmp_path, other):
    PPO(plain_reach(), settings()).learn(28).save(tmp_path / "agent.pt")
    env, config = OTHERS[other]()
    with pytest.raises(UsageError):
        PPO.load(tmp_path / "agent.pt", env, config)


# --- what cannot be ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "advice"),
    [
        (lambda: PPOConfig(actor=ActorConfig(squash=True)), "leave actor.squash False"),
        (lambda: PPOConfig(clip=ClipConfig(epochs=0)), "epochs"),
        (lambda: PPOConfig(horizon=0), "at least 1 step"),
        (lambda: PPOConfig(gamma=1.1), "gamma"),
        (lambda: PPOConfig(lam=-0.1), "lam"),
        (lambda: PPOConfig(critic_lr=-1.0), "critic_lr"),
        (lambda: ClipConfig(epochs=-1), "epochs"),
        (lambda: ClipConfig(batch_size=0), "batch_size"),
        (lambda: ClipConfig(clip_range=0.0), "clip_range"),
        (lambda: ClipConfig(entropy_weight=-0.1), "entropy_weight"),
        (lambda: SHACConfig(score=ClipConfig(), actor=ActorConfig(squash=True)), "squash"),
        (lambda: SHACConfig(score=ClipConfig(), noise=NoiseConfig(kind="pink")), "white or ou"),
    ],
)
def test_what_cannot_be_is_refused_with_advice(build, advice):
    with pytest.raises(UsageError, match=advice):
        build()


@pytest.mark.parametrize(
    ("build", "advice"),
    [
        (lambda: PPOConfig(schedule="lineal"), "did you mean 'linear'"),
        (lambda: ClipConfig(ratio="teem"), "did you mean 'team'"),
        (lambda: ClipConfig(advantage="mine"), "'own', 'team'"),
        (lambda: PPO("gymnasium/CartPole-v1"), r"as_multi_agent\(env\)"),
        (lambda: MAPPO(None), "MAPPO cannot train on a NoneType"),
    ],
)
def test_a_wrong_type_gets_advice_where_types_are_not_checked(build, advice, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(UsageError, match=advice):
        build()

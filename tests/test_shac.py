"""SHAC: a known optimum, what it refuses, what it skips, and how it is interrupted."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from diffsurrogate.algorithms.shac import SHAC, SHACConfig
from diffsurrogate.critics import CriticConfig
from diffsurrogate.env import MultiAgentVectorEnv
from diffsurrogate.errors import UsageError
from diffsurrogate.nets import NetConfig
from diffsurrogate.noise import NoiseConfig
from diffsurrogate.policies import ActorConfig
from diffsurrogate.rewards import RewardConfig
from diffsurrogate.step_model import StepModelConfig
from diffsurrogate.surrogate_config import SurrogateConfig
from diffsurrogate.torch_env import TorchEnv, TorchState
from diffsurrogate.wrappers.learned import LearnedDiffWrapper
from diffsurrogate.wrappers.paper import make as make_paper

ENVS, AGENTS, OBS, ACT, HORIZON = 7, 3, 5, 2, 4
NET = NetConfig(hidden=(8,))
DEVICES = [
    "cpu",
    pytest.param(
        "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
    ),
]


class Home(TorchEnv):
    """Points in [-1, 1]² that move by up to a half per step; the squared distance home costs.

    The best is to walk straight home: from x, (|x| - ½)² is left after one step if |x| > ½, and
    nothing later. Its mean over x and the two coordinates is 2 ∫_½^1 (x - ½)² dx = 1/12.
    """

    def __init__(
        self,
        *,
        num_envs: int = ENVS,
        agents: int = AGENTS,
        differentiable: bool = True,
        device: str = "cpu",
    ) -> None:
        super().__init__(
            num_envs=num_envs,
            agents=[f"agent_{i}" for i in range(agents)],
            obs_dim=OBS,
            act_dim=ACT,
            differentiable=differentiable,
            device=device,
            max_steps=8,
        )
        self.broken = False

    def spawn(self, count: int, generator: torch.Generator) -> TorchState:
        shape = (count, self.num_agents, ACT)
        return {"x": 2 * torch.rand(shape, generator=generator, device=generator.device) - 1}

    def observe(self, state: TorchState) -> Tensor:
        return torch.cat([state["x"], state["x"].square(), state["x"][..., :1] * 0], dim=-1)

    def advance(self, state: TorchState, action: Tensor) -> TorchState:
        return {"x": state["x"] + 0.5 * action}

    def reward(self, state: TorchState, action: Tensor, next_state: TorchState) -> Tensor:
        cost = next_state["x"].square().sum(-1)
        if self.broken:  # the same value, an infinite slope
            cost = cost + (action - action.detach()).sum(-1).sqrt()
        return -cost


def config(**kwargs: object) -> SHACConfig:
    defaults = {
        "horizon": HORIZON,
        "actor": ActorConfig(net=NET, std=0.3),
        "critic": CriticConfig(net=NET),
        "noise": NoiseConfig(kind="ou"),
        "critic_updates": 2,
        "critic_batch_size": 13,
    }
    return SHACConfig(**(defaults | kwargs))


def learned(env: MultiAgentVectorEnv) -> LearnedDiffWrapper:
    net = NetConfig(architecture="shared", hidden=(8,), activation="silu")
    surrogates = SurrogateConfig(
        reward=RewardConfig(net=net), step=StepModelConfig(net=net), minibatches=2, batch_size=32
    )
    return LearnedDiffWrapper(env, config=surrogates)


def bare_home() -> MultiAgentVectorEnv:
    return Home()


def learned_home() -> MultiAgentVectorEnv:
    return learned(Home(differentiable=False))


def weights(agent: SHAC) -> list[Tensor]:
    modules = (agent.actor, agent.critic)
    return [value.detach().clone() for module in modules for value in module.state_dict().values()]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def mean_return(agent: SHAC) -> float:
    """Of the deterministic policy, per agent, over whole episodes."""
    env = Home(num_envs=101)
    obs, _ = env.reset(seed=1)
    total = torch.zeros(101, AGENTS)
    for _ in range(8):
        obs, reward, *_ = env.step(agent.predict(obs))
        total += reward.detach()
    return float(total.mean())


# --- learning --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("squash", "learn_std"), [(False, False), (True, False), (False, True), (True, True)]
)
def test_points_learn_to_go_straight_home(squash, learn_std):
    """Return -1/12 at best; standing still costs 8 steps of 2/3, -5.3."""
    torch.manual_seed(0)
    actor = ActorConfig(
        net=NetConfig(architecture="shared", hidden=(32,)),
        std=0.3,
        squash=squash,
        learn_std=learn_std,
    )
    critic = CriticConfig(net=NetConfig(architecture="shared", hidden=(32,)))
    agent = SHAC(
        Home(num_envs=61), config(actor=actor, critic=critic, actor_lr=0.01, noise=NoiseConfig())
    )
    before = mean_return(agent)
    std = agent.actor.log_std.exp().mean()
    agent.learn(total_steps=200 * 61 * HORIZON)
    assert before < -3
    assert -1 / 12 - 0.07 < mean_return(agent) < -1 / 12 + 0.02
    if learn_std:  # noise only costs
        assert agent.actor.log_std.exp().mean() < 0.7 * std


def test_the_learned_gradient_leads_home_too():
    net = NetConfig(architecture="shared", hidden=(32,), activation="silu")
    surrogates = SurrogateConfig(
        reward=RewardConfig(net=net), step=StepModelConfig(net=net), batch_size=128
    )
    env = LearnedDiffWrapper(Home(num_envs=61, differentiable=False), config=surrogates)
    shared = NetConfig(architecture="shared", hidden=(32,))
    settings = config(
        actor=ActorConfig(net=shared, std=0.3),
        critic=CriticConfig(net=shared),
        noise=NoiseConfig(),
    )
    agent = SHAC(env, settings).learn(total_steps=80 * 61 * HORIZON)
    assert mean_return(agent) > -0.6  # of -5.3 at the start; -0.08 is the best


@pytest.mark.parametrize("part", [(), ("dynamics",), ("reward",)])
def test_an_env_without_gradients_is_refused_with_advice(part):
    env = Home(differentiable=False)
    env.gradients = frozenset(part)
    with pytest.raises(UsageError, match=r"LearnedDiffWrapper\(env\)"):
        SHAC(env)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"horizon": 0}, "horizon"),
        ({"critic_updates": 0}, "critic_updates"),
        ({"critic_batch_size": 0}, "critic_batch_size"),
        ({"gamma": 1.1}, "gamma"),
        ({"lam": -0.1}, "lam"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(kwargs, message):
    with pytest.raises(UsageError, match=message):
        SHACConfig(**kwargs)


# --- updates ---------------------------------------------------------------------------------


METRICS = {
    "actor_loss",
    "actor_gradient_norm",
    "skipped_updates",
    "reward",
    "episodes_ended",
    "episodes_terminated",
    "critic_loss",
    "value_target",
    "env_steps",
    "update_cpu_seconds",
}
LEARNED_METRICS = {
    "reward_loss",
    "reward_error",
    "dynamics_loss",
    "dynamics_error",
    "cached_transitions",
}


@pytest.mark.parametrize(
    ("make_env", "keys"), [(bare_home, METRICS), (learned_home, METRICS | LEARNED_METRICS)]
)
def test_every_update_reports_finite_numbers(make_env, keys):
    agent = SHAC(make_env(), config(stagger=False))
    reports = list(agent.updates(4))
    assert set(reports[-1]) >= keys
    for report in reports:
        assert all(torch.isfinite(torch.tensor(value)) for value in report.values())
    assert [report["env_steps"] for report in reports] == [28.0, 56.0, 84.0, 112.0]
    assert [report["episodes_ended"] for report in reports] == [0.0, 7.0, 0.0, 7.0]
    assert reports[-1]["episodes_terminated"] == 0.0


@pytest.mark.parametrize("total_steps", [1, 28, 29, 56, 57])
def test_steps_are_rounded_up_to_whole_windows(total_steps):
    """A window is 7 envs of 4 steps."""
    agent = SHAC(Home(), config()).learn(total_steps)
    assert agent.update == {1: 1, 28: 1, 29: 2, 56: 2, 57: 3}[total_steps]
    assert agent.env_steps == 28 * agent.update


def test_learning_goes_on_to_the_total():
    agent = SHAC(Home(), config())
    agent.learn(56).learn(56)
    assert agent.update == 2
    assert agent.learn(84).update == 3


@pytest.mark.parametrize(("answer", "updates"), [(False, 2), (None, 5), (True, 5)])
def test_only_false_stops(answer, updates):
    agent = SHAC(Home(), config())

    def callback(trainer: SHAC, metrics: dict[str, float]) -> bool | None:
        assert trainer is agent
        assert metrics["env_steps"] == 28 * trainer.update
        return answer if trainer.update == 2 else None

    assert agent.learn(5 * 28, callback).update == updates


def test_a_progress_bar_may_be_shown(capsys):
    SHAC(Home(), config()).learn(56, progress_bar=True)
    assert "reward=" in capsys.readouterr().err


def rates(schedule: str) -> list[tuple[float, float]]:
    agent, seen = SHAC(Home(), config(schedule=schedule, actor_lr=0.1, critic_lr=0.02)), []
    optimisers = (agent.actor_optimiser, agent.critic_optimiser)
    for _ in agent.updates(4):
        seen.append(tuple(optimiser.param_groups[0]["lr"] for optimiser in optimisers))
    return seen


def test_learning_rates_fall_linearly():
    """From 0.1 and 0.02 towards 1e-5, a quarter of the way per update of four."""
    for index, (actor, critic) in enumerate(rates("linear")):
        share = index / 4
        assert actor == pytest.approx(0.1 * (1 - share) + 1e-5 * share)
        assert critic == pytest.approx(0.02 * (1 - share) + 1e-5 * share)
    assert rates("constant") == [(0.1, 0.02)] * 4


def test_non_finite_gradients_are_skipped_and_counted():
    agent = SHAC(Home(), config())
    skipped, before = [], []

    def callback(trainer: SHAC, metrics: dict[str, float]) -> None:
        skipped.append(metrics["skipped_updates"])
        after = [p.detach().clone() for p in trainer.actor.parameters()]
        assert all(torch.isfinite(p).all() for p in after)
        assert same(before[-1], after) == trainer.env.broken
        assert torch.isfinite(torch.tensor(metrics["actor_gradient_norm"])) != trainer.env.broken
        before.append(after)
        trainer.env.broken = trainer.update in (2, 3)

    before.append([p.detach().clone() for p in agent.actor.parameters()])
    agent.learn(6 * 28, callback)
    assert skipped == [0.0, 0.0, 1.0, 2.0, 2.0, 2.0]
    assert all(torch.isfinite(value).all() for value in weights(agent))


@pytest.mark.xfail(reason="the critic steps on a non-finite target, and is lost", strict=True)
def test_one_infinite_reward_does_not_end_the_training():
    class Spike(Home):
        def reward(self, state: TorchState, action: Tensor, next_state: TorchState) -> Tensor:
            reward = super().reward(state, action, next_state)
            return reward / 0 if self.broken else reward

    def callback(trainer: SHAC, metrics: dict[str, float]) -> None:
        trainer.env.broken = trainer.update == 2

    agent = SHAC(Spike(), config()).learn(6 * 28, callback)
    assert all(torch.isfinite(p).all() for p in agent.critic.parameters())
    assert agent.skipped == 1


@pytest.mark.parametrize("batch", [13, 1000], ids=["minibatches", "whole windows"])
def test_without_a_value_cache_the_critic_learns_from_the_window(batch):
    kwargs = {"value_capacity": 0, "critic_updates": 4, "critic_batch_size": batch}
    agent = SHAC(Home(), config(actor_lr=0.0, critic_lr=0.01, gamma=0.0, **kwargs))
    assert agent.values is None
    reports = list(agent.updates(60))
    assert reports[-1]["critic_loss"] < 0.5 * reports[0]["critic_loss"]


@pytest.mark.parametrize(("batch", "rounds"), [(13, 2), (14, 2), (28, 1), (1000, 1)])
def test_without_a_value_cache_no_state_comes_twice_before_all_came(batch, rounds):
    agent = SHAC(Home(), config(value_capacity=0, critic_updates=5, critic_batch_size=batch))
    obs = torch.arange(28.0).reshape(28, 1, 1)
    batches = list(agent._critic_batches(obs, obs[..., 0]))
    assert [len(b["obs"]) for b in batches] == [min(batch, 28)] * 5
    assert all(torch.equal(b["obs"][..., 0], b["target"]) for b in batches)
    first = torch.cat([b["obs"] for b in batches[:rounds]]).flatten().tolist()
    assert len(set(first)) == len(first)


def test_envs_are_staggered_if_asked():
    for stagger in (True, False):
        agent = SHAC(Home(num_envs=61), config(stagger=stagger))
        ends = [report["episodes_ended"] for report in agent.updates(4)]
        assert (ends == [0.0, 61.0, 0.0, 61.0]) != stagger


def test_the_seed_decides_everything_and_the_global_stream_nothing():
    def trained(seed: int, around: int) -> list[Tensor]:
        torch.manual_seed(around)
        state = torch.get_rng_state()
        agent = SHAC(learned_home(), config(), seed=seed).learn(84)
        assert torch.equal(torch.get_rng_state(), state)
        return weights(agent)

    assert same(trained(1, around=0), trained(1, around=5))
    assert not same(trained(1, around=0), trained(2, around=0))


# --- acting ----------------------------------------------------------------------------------


@pytest.mark.parametrize("leading", [(ENVS,), (), (2, ENVS)])
@pytest.mark.parametrize("squash", [False, True])
def test_predictions_are_in_the_box_and_have_no_graph(leading, squash):
    actor = ActorConfig(net=NET, std=5.0, squash=squash, head_gain=1.0)
    agent, obs = SHAC(Home(), config(actor=actor)), torch.randn(*leading, AGENTS, OBS)
    mean, sample, other = agent.predict(obs), agent.predict(obs, False), agent.predict(obs, False)
    for action in (mean, sample):
        assert action.shape == (*leading, AGENTS, ACT)
        assert action.abs().max() <= 1
        assert not action.requires_grad
    assert torch.equal(mean, agent.predict(obs, deterministic=True))
    assert not torch.equal(sample, other)


@pytest.mark.xfail(reason="predict draws from the generator of the training's noise", strict=True)
def test_sampling_actions_leaves_the_training_alone():
    """Whoever evaluates a stochastic policy between updates must not change what is learned."""

    def look(agent: SHAC, metrics: dict[str, float]) -> None:
        agent.predict(torch.zeros(ENVS, AGENTS, OBS), deterministic=False)

    watched, alone = SHAC(Home(), config()).learn(84, look), SHAC(Home(), config()).learn(84)
    assert same(weights(watched), weights(alone))


# --- saving ----------------------------------------------------------------------------------


@pytest.mark.parametrize("make_env", [bare_home, learned_home])
@pytest.mark.parametrize(
    "kwargs",
    [
        {"schedule": "linear"},
        {"noise": NoiseConfig(kind="held", hold=3)},
        {"value_capacity": 0, "noise": NoiseConfig(kind="pink")},
        {"actor": ActorConfig(net=NET, std=0.3, squash=True, learn_std=True)},
    ],
    ids=["ou, linear", "held", "pink, no cache", "squash, learn_std"],
)
def test_a_loaded_trainer_ends_where_the_unbroken_one_does(tmp_path, make_env, kwargs):
    path, settings = tmp_path / "agent.pt", config(**kwargs)
    unbroken, broken = (SHAC(make_env(), settings, seed=3) for _ in range(2))
    unbroken.learn(5 * 28)

    def stop(agent: SHAC, metrics: dict[str, float]) -> bool:
        return agent.update < 3

    broken.learn(5 * 28, stop).save(path)
    env = make_env()
    env.reset(seed=11)
    loaded = SHAC.load(path, env, settings)
    assert (loaded.update, loaded.seed) == (3, 3)
    assert same(weights(loaded), weights(broken))
    loaded.learn(5 * 28)
    assert same(weights(loaded), weights(unbroken))
    assert torch.equal(loaded.env.current_obs, unbroken.env.current_obs)
    assert not same(weights(loaded), weights(broken))


def test_saving_before_the_first_update_saves_the_start(tmp_path):
    agent = SHAC(Home(), config(), seed=3)
    agent.save(tmp_path / "new.pt")
    loaded = SHAC.load(tmp_path / "new.pt", Home(), config())
    assert same(weights(loaded.learn(56)), weights(agent.learn(56)))


OTHERS: dict[str, Callable[[], tuple[MultiAgentVectorEnv, SHACConfig]]] = {
    "agents": lambda: (Home(agents=2), config()),
    "envs": lambda: (Home(num_envs=11), config()),
    "no models were saved": lambda: (learned_home(), config()),
    "network": lambda: (Home(), config(actor=ActorConfig(net=NetConfig(hidden=(11,))))),
    "learn_std": lambda: (Home(), config(actor=ActorConfig(net=NET, learn_std=True))),
    "bins": lambda: (Home(), config(value_bins=2)),
    "a cache was saved, none is wanted": lambda: (Home(), config(value_capacity=0)),
}
NOT_REFUSED = pytest.mark.xfail(reason="the saved value cache is dropped silently", strict=True)


@pytest.mark.parametrize(
    "other", [pytest.param(k, marks=NOT_REFUSED if "cache" in k else ()) for k in OTHERS]
)
def test_a_checkpoint_of_another_kind_is_refused(tmp_path, other):
    path = tmp_path / "agent.pt"
    SHAC(Home(), config()).learn(28).save(path)
    env, settings = OTHERS[other]()
    with pytest.raises(UsageError):
        SHAC.load(path, env, settings)


@pytest.mark.parametrize("content", [None, b"", b"no checkpoint", b"PK\x03\x04 cut short"])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path, content):
    path = tmp_path / "agent.pt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=r"agent\.pt"):
        SHAC.load(path, Home(), config())


# --- devices ---------------------------------------------------------------------------------


def home_on(device: str) -> MultiAgentVectorEnv:
    return learned(Home(differentiable=False, device=device))


def dispersion_on(device: str) -> MultiAgentVectorEnv:
    kwargs = {"num_envs": ENVS, "n_agents": AGENTS, "seed": 0, "max_steps": 5}
    return learned(make_paper("dispersion", device=device, **kwargs))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("make_env", [home_on, dispersion_on])
@pytest.mark.parametrize("value_capacity", [0, 20])
def test_updates_saving_and_loading_work_on_every_device(
    tmp_path, device, make_env, value_capacity
):
    path, settings = tmp_path / "agent.pt", config(value_capacity=value_capacity)
    agent = SHAC(make_env(device), settings).learn(84)
    agent.save(path)
    loaded = SHAC.load(path, make_env(device), settings)
    obs = loaded.env.current_obs
    assert obs.device.type == device
    assert torch.equal(obs, agent.env.current_obs)
    assert torch.equal(loaded.predict(obs), agent.predict(obs))
    after = [weights(trainer.learn(168)) for trainer in (agent, loaded)]
    for a, b in zip(*after, strict=True):
        assert a.device.type == device
        assert torch.equal(a, b) if device == "cpu" else torch.allclose(a, b, atol=1e-4)
    assert loaded.predict(obs, deterministic=False).device.type == device

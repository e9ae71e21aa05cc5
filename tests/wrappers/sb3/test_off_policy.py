"""Stable-Baselines3's SAC and TD3 in our run loop: their numbers, and what their replay holds."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from stable_baselines3 import SAC as TheirSAC
from stable_baselines3 import TD3 as TheirTD3
from stable_baselines3.common.noise import NormalActionNoise
from torch import Tensor
from toys.choices import Choices
from toys.reach import AGENTS, ENVS, OBS
from toys.trainers import WINDOW, off_policy, plain_reach

from diffsurrogate.envs.env import MultiAgentVectorEnv
from diffsurrogate.envs.registry import make
from diffsurrogate.envs.torch_env import TorchEnv, TorchState
from diffsurrogate.errors import UsageError
from diffsurrogate.training.evaluate import evaluate
from diffsurrogate.wrappers.sb3.config import SB3SACConfig, SB3TD3Config
from diffsurrogate.wrappers.sb3.export import SB3VecEnv, as_policy
from diffsurrogate.wrappers.sb3.off_policy import SB3SAC, SB3TD3

both = pytest.mark.parametrize("kind", [SB3SAC, SB3TD3])


def dispersion() -> MultiAgentVectorEnv:
    return make("paper/dispersion", num_envs=ENVS, n_agents=AGENTS, seed=3, max_steps=5)


@pytest.mark.parametrize("joint", [False, True])
@both
def test_it_learns_what_stable_baselines_learns(kind, joint):
    """From the same weights and random streams, by its own `learn` on the same episodes."""
    config = off_policy(
        kind.config_type,
        joint=joint,
        env_steps_per_gradient_step=ENVS,
        learning_starts=2 * ENVS,
        capacity=1000,
        randomise_episode_phase=False,
    )
    agent = kind(dispersion(), config, seed=5)
    vec = SB3VecEnv(dispersion(), joint=joint)
    slots, size = vec.num_envs, vec.action_space.shape
    more = {"action_noise": NormalActionNoise(np.zeros(size), np.full(size, 0.1))}
    model = (TheirSAC if kind is SB3SAC else TheirTD3)(
        "MlpPolicy",
        vec,
        learning_rate=config.lr,
        buffer_size=1000,
        learning_starts=2 * slots,
        batch_size=13,
        tau=1 - 0.995,
        policy_kwargs={"net_arch": [8]},
        device="cpu",
        **(more if kind is SB3TD3 else {}),
    )
    model.policy.load_state_dict(agent.model.policy.state_dict())
    vec.action_space.np_random.bit_generator.state = agent.state_dict()["sb3"]["first_actions"]
    with agent._random.in_force():
        torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()
    agent.learn(3 * WINDOW)
    torch.set_rng_state(torch_state)
    np.random.set_state(numpy_state)
    vec.seed(5)
    model.learn(3 * 4 * slots)
    assert model._n_updates == agent.model._n_updates == 12 - 2
    ours, theirs = agent.model.policy.state_dict(), model.policy.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    obs, _ = dispersion().reset(seed=1)
    assert torch.equal(agent.predict(obs), as_policy(model, dispersion())(obs))


# --- the replay ----------------------------------------------------------------------------------


class Stairs(TorchEnv):
    """Climbs by 1 to 3 a step, which it earns, from 0; above 7 one falls, and 3 steps are all."""

    def __init__(self, num_envs: int = 2) -> None:
        super().__init__(num_envs=num_envs, agents=["a"], obs_dim=1, act_dim=1, max_steps=3)
        self.single_action_space = Box(1, 3, (1, 1), np.float32)
        self.action_low, self.action_high = torch.tensor([[1.0]]), torch.tensor([[3.0]])

    def spawn(self, count: int, generator: torch.Generator) -> TorchState:
        return {"x": torch.zeros(count, 1, 1)}

    def observe(self, state: TorchState) -> Tensor:
        return state["x"]

    def advance(self, state: TorchState, action: Tensor) -> TorchState:
        return {"x": state["x"] + action}

    def reward(self, state: TorchState, action: Tensor, next_state: TorchState) -> Tensor:
        return action[..., 0]

    def terminated(self, state: TorchState) -> Tensor:
        return state["x"][:, 0, 0] > 7


@both
def test_the_replay_holds_what_happened_and_time_limits_do_not_end_the_future(kind):
    """Two envs climb by 2 and by 3 a step, 0 and 1 in normalised actions.

    The first is stopped by the limit at 6, the second falls in its third step, to 9, in which the
    limit would stop it as well. Neither transition ends at 0, where the next episode begins.
    """
    quiet = {"noise_std": 0.0} if kind is SB3TD3 else {}  # which it adds to first actions too
    config = off_policy(kind.config_type, randomise_episode_phase=False, capacity=100, **quiet)
    agent = kind(Stairs(), config)
    agent.slots.action_space.sample = iter([[2.0], [3.0]] * 4).__next__  # before it learns
    agent.learn(1)
    replay = agent._replay
    stored = {name: getattr(replay, name)[:4].squeeze() for name in ("observations", "actions")}
    assert stored["observations"].tolist() == [[0, 0], [2, 3], [4, 6], [0, 0]]
    assert stored["actions"].tolist() == [[0, 1]] * 4
    assert replay.next_observations[:4].squeeze().tolist() == [[2, 3], [4, 6], [6, 9], [2, 3]]
    assert replay.rewards[:4].tolist() == [[2, 3]] * 4
    assert replay.dones[:4].tolist() == [[0, 0], [0, 0], [1, 1], [0, 0]]
    assert replay.timeouts[:4].tolist() == [[0, 0], [0, 0], [1, 0], [0, 0]]
    with agent._samples.in_force():
        drawn = replay.sample(200)
    ended = drawn.next_observations[drawn.dones == 1]
    assert set(ended.tolist()) == {9.0}
    assert 6.0 in drawn.next_observations


@both
def test_actions_are_in_a_box_that_is_not_symmetric(kind):
    """Whatever was stored or is predicted; the deviation of TD3's samples is of half the box."""
    agent = kind(Stairs(), off_policy(kind.config_type)).learn(12 * 8)
    replay = agent._replay
    steps = replay.next_observations - replay.observations
    assert replay.size() == 70 // 2 and agent.model._n_updates > 0
    np.testing.assert_allclose(steps[..., 0], 2 + replay.actions[..., 0], atol=1e-5)
    obs = torch.linspace(-30, 30, 101)[:, None, None]
    for deterministic in (True, False):
        action = agent.predict(obs, deterministic)
        assert action.min() >= 1 and action.max() <= 3
    if kind is SB3TD3:
        noise = agent.predict(torch.zeros(9999, 1, 1), False) - agent.predict(torch.zeros(1, 1, 1))
        assert noise.std() == pytest.approx(0.1, rel=0.05)


@both
def test_a_checkpoint_holds_the_filled_part_of_the_replay_only(kind, tmp_path):
    """A transition of three agents is 2 * 15 + 6 + 3 float32, and 2 or 6 windows of 28 are full."""

    def size(windows: int, capacity: int) -> int:
        agent = kind(plain_reach(), off_policy(kind.config_type, capacity=capacity))
        agent.learn(windows * WINDOW).save(tmp_path / "agent.pt")
        return (tmp_path / "agent.pt").stat().st_size

    few, many = size(2, 100_000), size(6, 100_000)
    assert size(2, 70) == pytest.approx(few, abs=200)
    assert many - few == pytest.approx(4 * WINDOW * (2 * AGENTS * OBS + 6 + 3) * 4, rel=0.05)


def test_a_replay_of_another_size_is_refused():
    agent = SB3SAC(plain_reach(), off_policy(SB3SACConfig)).learn(WINDOW)
    state = agent.state_dict()
    held = state["sb3"]["replay"]["transitions"]
    for name, bad in (("actions", held["actions"][:3]), ("rewards", held["rewards"].double())):
        held[name], good = bad, held[name]
        with pytest.raises(UsageError, match="does not fit this env"):
            agent.load_state_dict(state)
        held[name] = good
    agent.load_state_dict(state)


# --- when and by what it learns ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("copies", "each", "starts", "due"),
    [
        (7, 5, 28, [0, 0, 0, 0, 2, 1, 1, 2]),  # 35 // 5 - 28 // 5, 42 // 5 - 35 // 5, ...
        (3, 8, 0, [0, 0, 1, 0, 0, 1, 0, 1]),  # at 9, 18 and 24 steps
        (64, 8, 64, [0, 8, 8, 8, 8, 8, 8, 8]),
        (1, 1, 3, [0, 0, 0, 1, 1, 1, 1, 1]),
    ],
)
def test_gradient_steps_are_due_by_env_steps_whatever_the_number_of_copies(
    copies, each, starts, due
):
    config = off_policy(SB3SACConfig, env_steps_per_gradient_step=each, learning_starts=starts)
    agent = SB3SAC(plain_reach(num_envs=copies), config)
    assert [agent._gradient_steps_after(step) for step in range(1, 9)] == due


@both
def test_first_actions_are_uniform_and_nothing_is_reported_before_it_learns(kind):
    config = off_policy(kind.config_type, joint=False, learning_starts=4 * 101, capacity=10_000)
    agent = kind(plain_reach(num_envs=101), config)
    first, second = agent.iterations(2)
    assert "critic_loss" not in first and "actor_loss" not in first
    assert {"critic_loss", "actor_loss"} <= second.keys()
    drawn = agent._replay.actions[:4]
    assert drawn.std() == pytest.approx(3**-0.5, rel=0.03)
    assert abs(drawn).max() > 0.99


@both
def test_the_learning_rate_falls_with_the_steps_if_asked(kind):
    """To 0 at the last of 5 windows; it is set before the last gradient steps of each."""
    config = off_policy(kind.config_type, lr_schedule="linear", lr=0.1)
    agent = kind(plain_reach(), config)
    optimisers = agent._optimiser.values()
    rates = [{o.param_groups[0]["lr"] for o in optimisers} for _ in agent.iterations(5)]
    assert all(len(rate) == 1 for rate in rates)
    assert [rate.pop() for rate in rates] == pytest.approx([0.1, 0.06, 0.04, 0.02, 0.0])


@pytest.mark.parametrize(("weight", "constant"), [(None, False), (0.3, True)])
def test_the_weight_of_the_entropy_is_learned_or_given(weight, constant):
    config = off_policy(SB3SACConfig, entropy_weight=weight, lr=0.01)
    reports = list(SB3SAC(plain_reach(), config).iterations(4))[1:]
    weights = [report["entropy_weight"] for report in reports]
    assert (weights == pytest.approx([0.3] * 3)) == constant
    assert constant or 1 > weights[0] > weights[1] > weights[2]


@both
def test_points_learn_to_go_home(kind):
    """Standing still costs 5.3 in 8 steps, going straight home 0.08; per agent."""
    config: Any = off_policy(
        kind.config_type,
        hidden=(32, 32),
        gamma=0.9,
        lr=3e-3,
        batch_size=128,
        joint=False,
        learning_starts=250,
        capacity=100_000,
    )
    agent = kind(plain_reach(num_envs=61), config, seed=1)
    before = evaluate(agent.predict, plain_reach(num_envs=101)).mean_return / AGENTS
    agent.learn(1500)
    after = evaluate(agent.predict, plain_reach(num_envs=101)).mean_return / AGENTS
    assert before < -3
    assert after > -1.5


# --- what is refused -----------------------------------------------------------------------------


def flat() -> MultiAgentVectorEnv:
    env = Stairs()
    env.single_action_space = Box(1, 1, (1, 1), np.float32)
    return env


@both
def test_what_it_cannot_train_on_is_refused_with_advice(kind):
    config = off_policy(kind.config_type)
    with pytest.raises(UsageError, match=r"needs continuous actions.*such as sb3-ppo"):
        kind(Choices(), config)
    with pytest.raises(UsageError, match=r"width of the action box, which is 0 somewhere"):
        kind(flat(), config)
    with pytest.raises(UsageError, match=r"no room for one step of 71; raise the capacity"):
        kind(plain_reach(num_envs=71), config)
    lopsided = plain_reach()
    lopsided.single_action_space.low[1] = -0.5
    with pytest.raises(UsageError, match=r"differ in their action boxes.*joint=True"):
        kind(lopsided, off_policy(kind.config_type, joint=False))


@pytest.mark.parametrize(
    ("kind", "changes", "advice"),
    [
        (SB3SACConfig, {"target_decay": 1.0}, r"target_decay is 1.0; it must be in \[0, 1\)"),
        (SB3SACConfig, {"env_steps_per_gradient_step": 0}, "at least 1"),
        (SB3SACConfig, {"entropy_weight": -1.0}, "at least 0"),
        (SB3SACConfig, {"hidden": ()}, "at least one width"),
        (SB3TD3Config, {"policy_delay": 0}, "at least 1"),
        (SB3TD3Config, {"noise_std": float("nan")}, "at least 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(kind, changes, advice):
    with pytest.raises(UsageError, match=advice):
        kind(**changes)

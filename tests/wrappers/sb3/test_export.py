"""Stable-Baselines3 sees each agent as a slot, with our numbers and our ends."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecFrameStack, VecMonitor, VecNormalize
from torch import Tensor

from diffsurrogate.envs.env import MultiAgentVectorEnv
from diffsurrogate.envs.registry import make
from diffsurrogate.envs.torch_env import TorchEnv, TorchState
from diffsurrogate.errors import UsageError
from diffsurrogate.training.evaluate import evaluate
from diffsurrogate.wrappers.sb3.export import SB3VecEnv, as_policy, to_actions

ENVS, AGENTS = 5, 3
HALVES = np.arange(ENVS * AGENTS * 2, dtype=np.float32).reshape(-1, 2) / 50 - 0.5


class Corners(TorchEnv):
    """Agents choose among 3 numbers; the first to choose 2 ends it, the choice is the reward."""

    discrete_actions = True
    render_mode = "rgb_array"

    def __init__(self, num_envs: int = ENVS) -> None:
        agents = [f"agent_{i}" for i in range(AGENTS)]
        super().__init__(num_envs=num_envs, agents=agents, obs_dim=2, act_dim=3, max_steps=4)

    def spawn(self, count: int, generator: torch.Generator) -> TorchState:
        return {"x": torch.rand(count, AGENTS, 2, generator=generator)}

    def observe(self, state: TorchState) -> Tensor:
        return state["x"]

    def advance(self, state: TorchState, action: Tensor) -> TorchState:
        return {"x": state["x"] + action.argmax(-1, keepdim=True)}

    def reward(self, state: TorchState, action: Tensor, next_state: TorchState) -> Tensor:
        return action.argmax(-1).float()

    def terminated(self, state: TorchState) -> Tensor:
        return (state["x"] >= 2).any(-1).any(-1)

    def render(self, *args: Any, **kwargs: Any) -> Any:
        return [np.full((2, 3, 3), index, np.uint8) for index in range(self.num_envs)]


class Lopsided(Corners):
    """Continuous, with another action box for one of the agents."""

    discrete_actions = False

    def __init__(self) -> None:
        super().__init__()
        self.single_action_space.low[1] = -0.5


def small() -> dict[str, Any]:
    """Settings of a model; it changes the dict of its policy."""
    return {"policy_kwargs": {"net_arch": [8]}, "device": "cpu", "seed": 0}


def dispersion(num_envs: int = ENVS) -> MultiAgentVectorEnv:
    return make("paper/dispersion", num_envs=num_envs, n_agents=AGENTS, seed=3, max_steps=4)


def cartpole(num_envs: int = ENVS) -> MultiAgentVectorEnv:
    return make("gymnasium/CartPole-v1", num_envs=num_envs, max_steps=13)


def test_slots_are_agents_env_by_env():
    vec, env = SB3VecEnv(dispersion()), dispersion()
    vec.seed(11)
    rows, (obs, _) = vec.reset(), env.reset(seed=11)
    assert vec.num_envs == ENVS * AGENTS
    assert vec.observation_space.shape == (env.obs_dim,)
    assert vec.action_space == spaces.Box(-1, 1, (2,), np.float32)
    for slot in range(vec.num_envs):
        assert (rows[slot] == obs[slot // AGENTS, slot % AGENTS].numpy()).all()
    rows, reward, done, _ = vec.step(HALVES)
    action = torch.tensor(HALVES).reshape(ENVS, AGENTS, 2)
    next_obs, expected, *_ = env.step(action)
    assert rows.dtype == reward.dtype == np.float32
    assert done.dtype == bool
    assert (rows == next_obs.reshape(-1, env.obs_dim).numpy()).all()
    assert (reward == expected.reshape(-1).numpy()).all()


def test_a_joint_slot_is_an_env_with_the_sum_of_rewards():
    vec, env = SB3VecEnv(dispersion(), joint=True), dispersion()
    vec.seed(11)
    rows, (obs, _) = vec.reset(), env.reset(seed=11)
    assert vec.num_envs == ENVS
    assert vec.observation_space.shape == (AGENTS * env.obs_dim,)
    assert vec.action_space.shape == (AGENTS * 2,)
    for _ in range(4):
        assert (rows == obs.flatten(1).numpy()).all()
        rows, reward, done, infos = vec.step(HALVES.reshape(ENVS, -1))
        obs, expected, *_, info = env.step(torch.tensor(HALVES).reshape(ENVS, AGENTS, 2))
        assert (reward == expected.sum(1).numpy()).all()
    assert done.all()
    final = np.stack([info["terminal_observation"] for info in infos])
    assert (final == info["final_obs"].flatten(1).numpy()).all()


def test_a_time_limit_is_a_truncation_of_all_agents_with_their_last_observations():
    vec, env = SB3VecEnv(dispersion()), dispersion()
    vec.seed(5)
    vec.reset()
    env.reset(seed=5)
    for step in range(1, 9):
        rows, _, done, infos = vec.step(HALVES)
        obs, *_, info = env.step(torch.tensor(HALVES).reshape(ENVS, AGENTS, 2))
        assert done.all() == done.any() == (step % 4 == 0)
        assert [each["TimeLimit.truncated"] for each in infos] == done.tolist()
        assert ["terminal_observation" in each for each in infos] == done.tolist()
        assert (rows == obs.flatten(0, 1).numpy()).all()
    final = np.stack([each["terminal_observation"] for each in infos])
    assert (final == info["final_obs"].flatten(0, 1).numpy()).all()
    assert (final != rows).any(1).all()


def test_a_fallen_pole_is_a_termination_and_time_a_truncation():
    vec, env = SB3VecEnv(cartpole(), joint=True), cartpole()
    assert vec.action_space == spaces.Discrete(2)
    vec.seed(5)
    vec.reset()
    env.reset(seed=5)
    falls = cuts = 0
    for step in range(40):
        push = np.array([1, step % 2, 1, step % 2, 1])
        _, _, done, infos = vec.step(push)
        _, _, terminated, truncated, info = env.step(to_actions(push, env))
        assert done.tolist() == (terminated | truncated).tolist()
        for index in np.flatnonzero(done):
            last = info["final_obs"][index, 0].numpy()
            assert (infos[index]["terminal_observation"] == last).all()
            assert infos[index]["TimeLimit.truncated"] == (not terminated[index])
            falls, cuts = falls + bool(terminated[index]), cuts + (not terminated[index])
    assert falls > 0
    assert cuts > 0


def test_choices_become_one_hot_rows():
    env = Corners(num_envs=2)
    expected = [[[0, 0, 1], [1, 0, 0], [0, 1, 0]], [[1, 0, 0], [1, 0, 0], [0, 0, 1]]]
    shared, joint = np.array([2, 0, 1, 0, 0, 2]), np.array([[2, 0, 1], [0, 0, 2]])
    assert to_actions(shared, env).tolist() == to_actions(joint, env).tolist() == expected
    assert SB3VecEnv(env).action_space == spaces.Discrete(3)
    vec = SB3VecEnv(env, joint=True)
    assert vec.action_space == spaces.MultiDiscrete([3, 3, 3])
    vec.reset()
    assert vec.step(joint)[1].tolist() == [3, 2]


@pytest.mark.parametrize(
    ("actions", "advice"),
    [
        (np.array([0, 1, 3, 0, 0, 0]), "out of range.*give 0 to 2"),
        (np.array([0, -1, 0, 0, 0, 0]), "out of range"),
        (np.array([0, 1, 2, 0]), "shape.*3 agents"),
        (np.array([0, 1, 2]), r"\(env, agent, act_dim\) = \(2, 3, 3\)"),
    ],
)
def test_actions_that_do_not_fit_are_refused(actions, advice):
    vec = SB3VecEnv(Corners(num_envs=2))
    vec.reset()
    with pytest.raises(UsageError, match=advice):
        vec.step(actions)


def test_agents_that_differ_share_no_policy_but_can_be_joint():
    with pytest.raises(UsageError, match=r"agent_0, agent_1, agent_2 differ.*joint=True"):
        SB3VecEnv(Lopsided())
    assert SB3VecEnv(Lopsided(), joint=True).action_space.shape == (AGENTS * 3,)


def test_misuse_is_refused():
    with pytest.raises(UsageError, match="make the env first"):
        SB3VecEnv("paper/dispersion")
    with pytest.raises(UsageError, match="step_async first"):
        SB3VecEnv(Corners()).step_wait()


def test_attributes_methods_and_pictures_are_those_of_the_env_behind_the_slots():
    vec = SB3VecEnv(Corners())
    assert vec.get_attr("max_steps") == [4] * (ENVS * AGENTS)
    assert vec.get_attr("max_steps", [0, 7]) == [4, 4]
    vec.set_attr("max_steps", 9)
    assert vec.env.max_steps == 9
    assert vec.has_attr("agents")
    assert not vec.has_attr("nothing_like_it")
    assert vec.env_method("max_return", indices=2) == [None]
    assert vec.env_is_wrapped(Monitor, indices=[1, 2]) == [False, False]
    assert len(vec.get_images()) == ENVS
    assert vec.render().shape == (3 * 2, 2 * 3, 3)  # 5 frames, tiled 3 x 2
    vec.close()
    assert vec.env.closed


def test_its_wrappers_work_on_it():
    vec = VecMonitor(VecFrameStack(VecNormalize(SB3VecEnv(dispersion())), 2))
    first = vec.reset()
    assert first.shape == (ENVS * AGENTS, 2 * dispersion().obs_dim)
    lengths = []
    for _ in range(9):
        *_, infos = vec.step(np.zeros((ENVS * AGENTS, 2), np.float32))
        lengths += [info["episode"]["l"] for info in infos if "episode" in info]
    assert lengths == [4] * (2 * ENVS * AGENTS)


def test_its_monitor_counts_every_agents_own_return():
    vec, env = VecMonitor(SB3VecEnv(Corners())), Corners()
    vec.seed(0)
    vec.reset()
    env.reset(seed=0)
    choices = np.array([0, 1, 0] * (ENVS - 1) + [0, 0, 0])
    total = torch.zeros(ENVS, AGENTS)
    returns: dict[int, float] = {}
    for _ in range(4):
        *_, infos = vec.step(choices)
        total += env.step(to_actions(choices, env))[1]
        for slot, info in enumerate(infos):
            if "episode" in info and slot not in returns:
                returns[slot] = info["episode"]["r"]
                assert returns[slot] == total[slot // AGENTS, slot % AGENTS]
    assert len(returns) == ENVS * AGENTS


@pytest.mark.parametrize("joint", [False, True])
def test_ppo_learns_and_is_evaluated_by_us(joint):
    vec = SB3VecEnv(dispersion(), joint=joint)
    model = PPO("MlpPolicy", vec, n_steps=32, batch_size=32, n_epochs=1, **small()).learn(512)
    env = dispersion(num_envs=2)
    predict = as_policy(model, env)
    obs, _ = env.reset(seed=0)
    action = predict(obs)
    assert action.shape == (2, AGENTS, 2)
    if joint:
        expected, _ = model.predict(obs.flatten(1).numpy(), deterministic=True)
        assert (action.flatten(1).numpy() == expected).all()
    else:
        for index, agent in np.ndindex(2, AGENTS):
            expected, _ = model.predict(obs[index, agent].numpy(), deterministic=True)
            assert action[index, agent].numpy() == pytest.approx(expected, abs=1e-6)
    assert torch.isfinite(evaluate(predict, env).returns).all()


@pytest.mark.parametrize("joint", [False, True])
def test_ppo_learns_discrete_actions(joint):
    vec = SB3VecEnv(Corners(), joint=joint)
    model = PPO("MlpPolicy", vec, n_steps=32, batch_size=32, n_epochs=1, **small()).learn(512)
    result = evaluate(as_policy(model, Corners(num_envs=2)), Corners(num_envs=2))
    assert torch.isfinite(result.returns).all()


@pytest.mark.parametrize(
    ("algorithm", "env_id"), [(SAC, "gymnasium/Pendulum-v1"), (DQN, "gymnasium/CartPole-v1")]
)
def test_off_policy_algorithms_learn(algorithm, env_id):
    env = make(env_id, num_envs=ENVS, max_steps=7)
    model = algorithm("MlpPolicy", SB3VecEnv(env), learning_starts=50, buffer_size=997, **small())
    model.learn(300)
    assert torch.isfinite(evaluate(as_policy(model, env), env).returns).all()


def test_its_evaluation_and_ours_agree():
    env = cartpole(num_envs=ENVS)
    vec = SB3VecEnv(cartpole())
    model = PPO("MlpPolicy", vec, n_steps=8, batch_size=8, **small())
    vec = VecMonitor(vec)
    vec.seed(7)
    theirs, lengths = evaluate_policy(model, vec, ENVS, return_episode_rewards=True)
    ours = evaluate(as_policy(model, env), env, seed=7)
    assert sorted(theirs) == sorted(ours.returns.tolist())
    assert sorted(lengths) == sorted(ours.lengths.tolist())


def test_a_policy_trained_on_normalised_observations_gets_them_normalised():
    vec = VecNormalize(SB3VecEnv(dispersion()))
    model = PPO("MlpPolicy", vec, n_steps=8, batch_size=8, n_epochs=1, **small()).learn(120)
    obs, _ = dispersion().reset(seed=0)
    rows = vec.normalize_obs(obs.flatten(0, 1).numpy())
    expected, _ = model.predict(rows, deterministic=True)
    assert (as_policy(model, dispersion())(obs).flatten(0, 1).numpy() == expected).all()


def test_a_model_of_another_env_is_refused():
    model = PPO("MlpPolicy", SB3VecEnv(cartpole()), n_steps=8, batch_size=8, **small())
    with pytest.raises(UsageError, match=r"the model maps .* the env has 3 agents"):
        as_policy(model, dispersion())

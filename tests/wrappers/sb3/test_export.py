"""Stable-Baselines3 sees each agent as a slot, with our numbers and our ends."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecMonitor, VecNormalize
from toys.choices import Choices

from diffsurrogate.envs.env import MultiAgentVectorEnv
from diffsurrogate.envs.registry import make
from diffsurrogate.errors import UsageError
from diffsurrogate.training.evaluate import evaluate
from diffsurrogate.wrappers.sb3.export import SB3VecEnv, as_policy, to_actions

ENVS, AGENTS = 5, 3
HALVES = np.arange(ENVS * AGENTS * 2, dtype=np.float32).reshape(-1, 2) / 50 - 0.5


class Lopsided(Choices):
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


def moves(env: MultiAgentVectorEnv, step: int) -> Any:
    """Return the same halves for points; poles are pushed so that some fall and some do not."""
    return np.array([1, step % 2] * 2 + [1]) if env.discrete_actions else HALVES


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("make_env", [dispersion, cartpole])
def test_slots_are_agents_or_joint_envs_with_our_numbers_and_ends(make_env, joint):
    """Joint slots earn the sum of rewards; time limits are truncations, falls are not."""
    vec, env = SB3VecEnv(make_env(), joint=joint), make_env()
    slots = ENVS if joint else ENVS * env.num_agents

    def rows(obs: torch.Tensor) -> Any:
        return obs.numpy().reshape(slots, -1)

    vec.seed(11)
    assert (vec.reset() == rows(env.reset(seed=11)[0])).all()
    assert vec.num_envs == slots
    assert vec.observation_space.shape == (ENVS * env.num_agents * env.obs_dim // slots,)
    ends = set()
    for step in range(40):
        given = moves(env, step)
        obs, reward, done, infos = vec.step(given.reshape(vec.num_envs, *vec.action_space.shape))
        ours, each, terminated, truncated, info = env.step(to_actions(given, env))
        assert obs.dtype == reward.dtype == np.float32
        assert (obs == rows(ours)).all()
        assert (reward == (each.sum(1) if joint else each.flatten()).numpy()).all()
        assert done.tolist() == (terminated | truncated).repeat_interleave(slots // ENVS).tolist()
        cut = (truncated & ~terminated).repeat_interleave(slots // ENVS).tolist()
        assert [said["TimeLimit.truncated"] for said in infos] == cut
        assert ["terminal_observation" in said for said in infos] == done.tolist()
        for slot in np.flatnonzero(done):
            assert (infos[slot]["terminal_observation"] == rows(info["final_obs"])[slot]).all()
        ends |= set(zip(terminated.tolist(), truncated.tolist(), strict=True))
    assert {(False, False), (False, True)} <= ends
    assert ((True, False) in ends) == (make_env is cartpole)


def test_choices_become_one_hot_rows():
    env = Choices(num_envs=2)
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
    vec = SB3VecEnv(Choices(num_envs=2))
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
        SB3VecEnv(Choices()).step_wait()


def test_attributes_methods_and_pictures_are_those_of_the_env_behind_the_slots():
    vec = SB3VecEnv(Choices())
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


@pytest.mark.parametrize("joint", [False, True])
def test_a_policy_trained_on_normalised_observations_gets_them_normalised(joint):
    vec = VecNormalize(SB3VecEnv(dispersion(), joint=joint))
    model = PPO("MlpPolicy", vec, n_steps=8, batch_size=8, n_epochs=1, **small()).learn(120)
    obs, _ = dispersion().reset(seed=0)
    rows = vec.normalize_obs(obs.numpy().reshape(vec.num_envs, -1))
    expected, _ = model.predict(rows, deterministic=True)
    action = as_policy(model, dispersion())(obs)
    assert action.shape == (ENVS, AGENTS, 2)
    assert (action.reshape(expected.shape).numpy() == expected).all()


def test_a_model_of_another_env_is_refused():
    model = PPO("MlpPolicy", SB3VecEnv(cartpole()), n_steps=8, batch_size=8, **small())
    with pytest.raises(UsageError, match=r"the model maps .* the env has 3 agents"):
        as_policy(model, dispersion())

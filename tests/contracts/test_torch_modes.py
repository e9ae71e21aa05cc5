"""Torch's modes and defaults, and threads, change no numbers, or are refused in words."""

import threading

import pytest
import torch
from stable_baselines3.common.env_util import make_vec_env

from diffsurrogate.algorithms.ppo import PPO, PPOConfig
from diffsurrogate.algorithms.shac import SHAC, SHACConfig
from diffsurrogate.envs.registry import as_multi_agent, make
from diffsurrogate.errors import UsageError
from diffsurrogate.training.evaluate import evaluate
from diffsurrogate.wrappers.learned import LearnedDiffWrapper

ENVS = {
    "vmas": lambda: make("vmas/navigation", num_envs=2, n_agents=2, max_steps=5),
    "builtin": lambda: make("diffsurrogate/cartpole-swingup", num_envs=2, max_steps=5),
    "gymnasium": lambda: make("gymnasium/Pendulum-v1", num_envs=2, max_steps=5),
    "mpe2": lambda: make("mpe2/simple_spread_v3", num_envs=2, max_steps=5),
    "VecEnv": lambda: as_multi_agent(make_vec_env("Pendulum-v1", n_envs=2)),
}
CONFIG = PPOConfig(horizon=8)


def game():
    return make("games/climbing", num_envs=2, steps=5)


@pytest.mark.parametrize("one", ENVS.values(), ids=ENVS)
def test_what_is_made_and_run_in_inference_mode_is_the_same_and_can_be_trained(one, tmp_path):
    env, agent = one(), PPO(one(), CONFIG, seed=0)
    expected = evaluate(agent.predict, env, steps=7, seed=1).returns
    agent.save(tmp_path / "agent.pt")
    with torch.inference_mode():
        assert torch.equal(evaluate(agent.predict, env, steps=7, seed=1).returns, expected)
        made = PPO(LearnedDiffWrapper(one()), CONFIG, seed=0)
        loaded = PPO.load(tmp_path / "agent.pt", one())
        assert torch.equal(evaluate(loaded.predict, made.env, steps=7, seed=1).returns, expected)
        window = made.env.collect(made.predict, 6)
        action = torch.zeros_like(made.env.action_low).expand(2, -1, -1).clone()
    made.env.fit(window)
    made.env.step(action)
    for one_of_them in (agent, made, loaded):
        one_of_them.learn(32)


def test_windows_of_policies_in_inference_mode_can_be_learned_from():
    env = LearnedDiffWrapper(make("diffsurrogate/cartpole-swingup", num_envs=2))
    agent = SHAC(env, SHACConfig(horizon=4), seed=0)
    env.reset(seed=0)
    window = env.rollout(torch.inference_mode()(agent.predict), 4)
    assert not window.action.is_inference()
    env.fit(window)


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_training_without_a_graph_is_refused(mode):
    env = LearnedDiffWrapper(game())
    agent = PPO(env, CONFIG, seed=0)
    with mode():
        with pytest.raises(UsageError, match=rf"training was called under torch\.{mode.__name__}"):
            agent.learn(16)
        env.reset()
        with pytest.raises(UsageError, match=rf"fit was called under torch\.{mode.__name__}"):
            env.fit(env.collect(agent.predict, 4))
    agent.learn(16)


@pytest.mark.parametrize(
    ("change", "undo", "told"),
    [
        (
            lambda: torch.set_default_dtype(torch.float64),
            lambda: torch.set_default_dtype(torch.float32),
            r"default dtype is torch\.float64 \(torch\.set_default_dtype\)",
        ),
        (
            lambda: torch.set_default_device("meta"),
            lambda: torch.set_default_device(None),
            r"default device is meta \(torch\.set_default_device\)",
        ),
    ],
    ids=["dtype", "device"],
)
def test_changed_defaults_are_named(change, undo, told):
    agent = PPO(game(), CONFIG, seed=0)
    try:
        change()
        for build in (ENVS["vmas"], ENVS["builtin"], ENVS["gymnasium"], game):
            with pytest.raises(UsageError, match=told):
                build()
        with pytest.raises(UsageError, match=told):
            PPO(agent.env, CONFIG, seed=0)
        with pytest.raises(UsageError, match=told):
            agent.learn(16)
    finally:
        undo()


def ppo(one, seed):
    return PPO(one(), CONFIG, seed=seed)


def shacpp(one, seed):
    return SHAC(LearnedDiffWrapper(one()), SHACConfig(horizon=8), seed=seed)


def weights(agent):
    return torch.cat([weight.detach().flatten() for weight in agent.actor.parameters()])


@pytest.mark.parametrize("method", [ppo, shacpp])
@pytest.mark.parametrize("one", [ENVS["vmas"], ENVS["gymnasium"]], ids=["vmas", "gymnasium"])
def test_two_trainings_in_threads_or_in_turns_learn_what_each_learns_alone(method, one):
    alone = [weights(method(one, seed).learn(32)) for seed in (1, 2)]
    found: dict[int, torch.Tensor] = {}
    barrier = threading.Barrier(2)

    def train(seed):
        barrier.wait()
        found[seed] = weights(method(one, seed).learn(32))

    threads = [threading.Thread(target=train, args=(seed,)) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    turns = [method(one, seed) for seed in (1, 2)]
    for _ in zip(*(agent.iterations(2) for agent in turns), strict=True):
        pass
    for seed, expected in enumerate(alone, start=1):
        assert torch.equal(found[seed], expected)
        assert torch.equal(weights(turns[seed - 1]), expected)

"""A run's policy acts in the user's own env as the trainer does in ours."""

import copy
import pickle
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import gymnasium
import jaxtyping
import numpy as np
import pytest
import torch
from gymnasium import spaces
from mpe2 import simple_spread_v3
from toys.masked import MaskedReach, closed_choices
from toys.turnover import TERMINATE, lives

from diffsurrogate import (
    SHAC,
    ActorConfig,
    LearnedDiffWrapper,
    SHACConfig,
    SharedNetConfig,
    TrainedPolicy,
    UsageError,
    evaluate,
    load_policy,
    make,
    recommended,
)
from diffsurrogate.cli.arguments import read_train
from diffsurrogate.cli.options import TrainOptions
from diffsurrogate.envs.env import MultiAgentVectorEnv
from diffsurrogate.envs.observation_slices import available_actions
from diffsurrogate.envs.raw_form import RawForm
from diffsurrogate.envs.registry import as_multi_agent
from diffsurrogate.training.checkpoint import load_checkpoint, save_checkpoint
from diffsurrogate.training.run_folder import RunFolder
from diffsurrogate.training.trainer import Trainer
from diffsurrogate.wrappers.external.adapter import env_seeds
from diffsurrogate.wrappers.external.agents import AgentsEnv
from diffsurrogate.wrappers.sb3.config import SB3Config

RUNS = {
    "pendulum": "ppo gymnasium/Pendulum-v1 --ppo.horizon 5",
    "cartpole": "ppo gymnasium/CartPole-v1 --ppo.horizon 5 --ppo.ema-decay 0.5",
    "lake": "ppo gymnasium/FrozenLake-v1 --ppo.horizon 5",
    "memory": "mappo gymnasium/Pendulum-v1 --ppo.horizon 5 --ppo.actor.net.gru-size 5",
    "spread": "ippo mpe2/simple_spread_v3 --ppo.horizon 5 --env-options continuous_actions False",
    "in turn": "bppo games/climbing --bppo.horizon 5",
    "robots": "shac++ vmas/navigation --agents 2 --shac.horizon 4 --surrogates.fit.minibatches 1",
    "native": "shac diffsurrogate/cartpole-swingup --shac.horizon 5",
    "sb3-ppo": "sb3-ppo gymnasium/CartPole-v1 --sb3.horizon 5",
    "sb3-sac": "sb3-sac gymnasium/Pendulum-v1 --sb3.horizon 5 --sb3.learning-starts 8",
}
Run = Callable[[str], Path]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return a function that trains a run by its name, once: its best has an update less."""
    folder = tmp_path_factory.mktemp("runs")

    @cache
    def trained(name: str) -> Path:
        options = read_train([*RUNS[name].split(), "--num-envs", "4"])
        made = RunFolder.create(folder / name, options.to_json())
        agent, env = options.make()
        updates = agent.iterations(2)
        for path in (made.best_path, made.checkpoint_path):
            next(updates)
            save_checkpoint(path, {"agent": agent.state_dict()})
        made.close()
        env.close()
        return made.path

    return trained


def loaded(folder: Path, num_envs: int, which: str = "best") -> Trainer:
    """Return the run's trainer, loaded onto another number of copies, which are reset."""
    options = TrainOptions.from_json(RunFolder.open(folder).config)
    agent, env = replace(options, num_envs=num_envs).make()
    env.reset(seed=5)
    return type(agent).load(folder / "checkpoints" / f"{which}.pt", env)


def numbers(action: Any, env: MultiAgentVectorEnv) -> Any:
    return action.argmax(-1) if env.discrete_actions else action


@pytest.mark.parametrize("which", ["best", "last"])
@pytest.mark.parametrize("name", [name for name in RUNS if name != "memory"])
def test_it_acts_as_the_trainer_on_another_number_of_copies(run, name, which):
    agent, policy = loaded(run(name), 3, which), load_policy(run(name), which=which)
    env, obs = agent.env, agent.env.current_obs
    action = numbers(agent.predict(obs), env)
    assert torch.equal(policy(obs), action)
    assert np.array_equal(agent.predict(obs.double().numpy()), agent.predict(obs).numpy())
    assert torch.equal(policy(obs[1]), numbers(agent.predict(obs[1:2])[0], env))
    given = policy(obs.numpy())
    assert isinstance(given, np.ndarray) and np.array_equal(given, action.numpy())
    assert np.array_equal(policy(obs.double().numpy()), given)
    spread = [torch.as_tensor(policy(obs, deterministic=False)).double() for _ in range(30)]
    assert torch.stack(spread).std(0).max() > 0


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))])
@pytest.mark.parametrize("name", [name for name in RUNS if name not in ("memory", "sb3-ppo")])
def test_a_copy_acts_alike(run, name, copied):
    env, policy = loaded(run(name), 3).env, load_policy(run(name))
    assert torch.equal(copied(policy)(env.current_obs), policy(env.current_obs))


def test_a_copy_remembers_what_was_seen(run):
    policy, obs = load_policy(run("memory")), torch.ones(2, 1, 3)
    policy(obs)
    again = pickle.loads(pickle.dumps(policy))
    assert torch.equal(again(obs), policy(obs))
    assert not torch.equal(load_policy(run("memory"))(obs), policy(obs))


@pytest.mark.parametrize("name", ["pendulum", "cartpole", "lake", "memory", "sb3-ppo"])
def test_it_earns_in_the_raw_env_what_evaluate_says(run, name):
    agent, policy = loaded(run(name), 3), load_policy(run(name))
    env_id, steps, seed = TrainOptions.from_json(RunFolder.open(run(name)).config).env, 40, 7
    ours = make(env_id, num_envs=3)
    expected = evaluate(agent.policy(ours), ours, steps=steps, seed=seed).returns
    raw, returns = gymnasium.make(env_id.removeprefix("gymnasium/")), []
    for own_seed in env_seeds(seed, 3):
        obs, _ = raw.reset(seed=own_seed)
        policy.reset()
        returns.append(0.0)
        for _ in range(steps):
            action = policy(obs)
            assert raw.action_space.contains(action)
            obs, reward, terminated, truncated, _ = raw.step(action)
            returns[-1] += float(reward)
            if terminated or truncated:
                break
    assert returns == pytest.approx(expected.tolist(), rel=1e-4)


def test_a_vector_env_gets_actions_of_all_its_copies(run):
    envs = gymnasium.make_vec("CartPole-v1", num_envs=5, vectorization_mode="sync")
    obs, _ = envs.reset(seed=1)
    policy = load_policy(run("cartpole"))
    assert repr(policy).startswith("<policy of ")
    actions = policy(obs)
    assert envs.action_space.contains(actions)


def test_a_memory_is_of_each_copy_until_its_reset(run):
    policy = load_policy(run("memory"))
    obs = np.random.default_rng(0).normal(size=(4, 3, 3)).astype(np.float32)
    first = policy(obs[0])
    second = policy(obs[0])
    assert not np.array_equal(first, second)
    policy.reset(np.array([True, False, False]))
    third = policy(obs[0])
    assert third[0] == pytest.approx(first[0]) and third[1] != pytest.approx(second[1])
    with pytest.raises(UsageError, match=r"of 1 copies of the env, but the policy remembers 3"):
        policy(obs[0, 0])
    with pytest.raises(UsageError, match=r"torch.bool of \(env,\) = \(3,\)"):
        policy.reset([True, False])
    policy.reset()
    assert np.array_equal(policy(obs[0]), first)


def test_agents_of_pettingzoo_get_a_dict(run):
    policy, raw = (
        load_policy(run("spread")),
        simple_spread_v3.parallel_env(continuous_actions=False),
    )
    observations, _ = raw.reset(seed=3)
    rows = np.stack([observations[agent] for agent in raw.possible_agents])
    actions = policy(observations)
    assert [int(action) for action in actions.values()] == policy(rows).tolist()
    assert all(raw.action_space(agent).contains(action) for agent, action in actions.items())
    raw.step(actions)
    one = policy({"agent_1": observations["agent_1"]})  # the others have left
    assert list(one) == ["agent_1"]
    with pytest.raises(UsageError, match=r"keys \['agent_4'\].*did you mean 'agent_"):
        policy({"agent_4": rows[0]})
    with pytest.raises(UsageError, match=r"of 'agent_0' is of shape \(2,\)"):
        policy({"agent_0": rows[0, :2]})


def test_any_agents_get_a_dict_without_padding():
    env = as_multi_agent(lives(*[(9, TERMINATE)] * 3))
    env.reset()
    form, plain = env.raw_form, super(AgentsEnv, env).raw_form
    seen = {agent: env.raws[0].observation_space(agent).sample() for agent in "ac"}
    rows, answer = form.read(seen)
    assert rows.shape == (1, env.num_agents, env.obs_dim) and not rows[0, 1].any()
    assert {agent: action.shape for agent, action in answer(env.action_high[None]).items()} == {
        "a": (1,),
        "c": (4,),
    }
    assert torch.equal(plain.read(seen)[0], rows)
    agents = r"keys \[\]; give an observation of each of the agents a.*; or, in rows, give \(agent"
    with pytest.raises(UsageError, match=agents):
        plain.read({})
    with pytest.raises(UsageError, match=r"of 'a' has the shape \(9,\); \("):
        plain.read({"a": torch.zeros(9)})


def test_every_choice_and_any_observation_of_gymnasium_is_in_its_own_form():
    class Odd(gymnasium.Env[Any, Any]):
        observation_space = spaces.Dict({"x": spaces.Box(-1, 1, (2, 2)), "k": spaces.Discrete(3)})
        action_space = spaces.MultiDiscrete([2, 4], start=[1, 5])

    env = as_multi_agent(Odd)
    seen = env.raw.single_observation_space.sample()
    rows, answer = env.raw_form.read(seen)
    assert rows.shape == (1, 2, 7)
    assert torch.equal(
        rows[0, 0].double(),
        torch.as_tensor(spaces.flatten(env.raw.single_observation_space, seen)).double(),
    )
    one_hot = torch.tensor([[[0.0, 1, 0, 0], [0, 0, 0, 1]]])
    assert answer(one_hot).tolist() == [2, 8] and Odd.action_space.contains(answer(one_hot))
    several = {"x": np.stack([seen["x"]] * 3), "k": np.array([seen["k"]] * 3)}
    three, answer = env.raw_form.read(several)
    assert torch.equal(three, rows.expand(3, 2, 7))
    assert answer(one_hot.expand(3, 2, 4)).tolist() == [[2, 8]] * 3
    far = env.raw_form.read({"x": 9 * np.ones((2, 2)), "k": 0})[0]  # bounds are not asked for
    assert far.max() == 9
    for wrong, said in [
        ({"y": 1}, r"obs is a dict of \['y'\], but observations are of Dict"),
        (several | {"k": 1}, r"obs\['x'\] has shape \(3, 2, 2\); \(2, 2\) is needed, but obs"),
        ({"x": seen["x"], "k": 7}, "but observations are of Dict"),
    ]:
        with pytest.raises(UsageError, match=said):
            env.raw_form.read(wrong)


def test_what_is_no_number_is_refused():
    class Sensor(gymnasium.Env):
        observation_space, action_space = spaces.Box(-1, 1, ()), spaces.Box(-1, 1, (1,))

    form = as_multi_agent(Sensor).raw_form
    assert form.read(0.5)[0].tolist() == [[[0.5]]]
    with pytest.raises(UsageError, match=r"a dict of \['eye'\], but observations are of Box"):
        as_multi_agent(gymnasium.make("Pendulum-v1")).raw_form.read({"eye": 0.5})
    for wrong in (None, "high"):
        with pytest.raises(UsageError, match="numbers are needed"):
            form.read(wrong)


def test_padding_is_no_choice():
    acted = torch.tensor([[True, True, False], [True, True, True]])
    form = RawForm(["a", "b"], torch.ones(2, 5, dtype=torch.bool), acted, discrete=True)
    _, answer = form.read(np.zeros((2, 5)))
    assert answer(torch.tensor([[[0.0, 0, 1], [0, 0, 1]]])).tolist() == [0, 2]


def test_a_closed_choice_is_never_taken():
    env = MaskedReach()
    recipe = replace(recommended("sb3-ppo", "games/climbing"), config=SB3Config(joint=False))
    state = {"agent": recipe.make_agent(env).state_dict()}
    policy, (obs, _) = TrainedPolicy.of_recipe(recipe, state, env), env.reset(seed=0)
    opened = available_actions(obs, env.action_mask_slice)
    assert closed_choices(env, obs, policy.on(env)(obs)) > 0  # the env takes another then
    for deterministic in (True, False):
        chosen = policy(obs, deterministic)
        assert opened.gather(-1, chosen.unsqueeze(-1)).all()


@pytest.mark.parametrize(
    ("name", "shape", "needed"),
    [
        ("pendulum", (4,), r"\(4,\); give an observation of Box\(.*\(agent, obs_dim\) = \(1, 3\)"),
        ("robots", (18,), r"\(18,\); give \(agent, obs_dim\) = \(2, 18\) or \(env, 2, 18\)"),
        ("native", (1, 1, 1, 5), r"give \(obs_dim,\) = \(5,\), \(env, 5\), \(agent, obs_dim\)"),
    ],
)
def test_another_shape_is_refused(run, name, shape, needed):
    with pytest.raises(UsageError, match=needed):
        load_policy(run(name))(np.zeros(shape))


def test_a_folder_of_runs_names_one(run):
    folder = run("native")
    with pytest.raises(UsageError, match=f"give one of those in it, such as {folder.parent}"):
        load_policy(folder.parent)


def test_a_folder_without_a_run_or_checkpoint_is_refused(run, tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="there is no run in"):
        load_policy(tmp_path)
    (tmp_path / "config.json").write_bytes((run("native") / "config.json").read_bytes())
    with pytest.raises(UsageError, match=r"there is no checkpoint .*best\.pt"):
        load_policy(tmp_path)
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(UsageError, match="did you mean 'best'"):
        load_policy(run("native"), which="bets")


class Drift(gymnasium.Env):
    """A raw env of the user's, under no id."""

    observation_space = spaces.Box(-9, 9, (3, 2), np.float32)
    action_space = spaces.Discrete(4, start=5)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = self.np_random.normal(size=(3, 2)).astype(np.float32)
        return self.place, {}

    def step(self, action):
        self.place = self.place + 0.1 * (action - 6)
        return self.place, float(self.place[0, 1]), False, False, {}


@pytest.mark.parametrize("gru_size", [0, 3])
def test_a_trainer_saved_in_python_acts_in_the_users_own_env(gru_size, tmp_path):
    net = SharedNetConfig(hidden=(8,), gru_size=gru_size)
    config = SHACConfig(horizon=4, actor=ActorConfig(net=net), ema_decay=0.5)
    env = LearnedDiffWrapper(as_multi_agent(Drift, num_envs=2, max_steps=7))
    agent = SHAC(env, config, seed=1).learn(24)
    agent.save(tmp_path / "agent.pt")
    policy, raw = load_policy(tmp_path / "agent.pt", Drift), Drift()
    assert repr(policy).startswith("<policy of SHAC on <")
    ours, (obs, _) = agent.policy(env), raw.reset(seed=3)
    rows, _ = env.reset(seed=3)
    for _ in range(5):
        rows[0] = torch.tensor(obs).flatten()
        chosen, same = policy(obs), ours(rows)
        assert chosen == 5 + same[0, 0].argmax()
        obs, *_ = raw.step(chosen)
        rows, *_ = env.step(same)


def test_a_file_of_a_trainer_needs_its_kind_of_env(tmp_path):
    agent = SHAC(make("diffsurrogate/cartpole-swingup", num_envs=3, differentiable=True))
    agent.save(tmp_path / "agent.pt")
    with pytest.raises(UsageError, match=r"not what its env observes .* load_policy\(.*YourEnv\)"):
        load_policy(tmp_path / "agent.pt")
    with pytest.raises(UsageError, match=r"= \(1, 5, 1\), the one given has \(1, 6, 4\)"):
        load_policy(tmp_path / "agent.pt", Drift)
    sb3 = recommended("sb3-ppo", "gymnasium/CartPole-v1").make(seed=0)[0]
    sb3.save(tmp_path / "sb3.pt")
    with pytest.raises(UsageError, match="Stable-Baselines3's methods"):
        load_policy(tmp_path / "sb3.pt", make("gymnasium/CartPole-v1"))


def test_on_another_number_of_copies_a_trainer_only_acts(run):
    agent = loaded(run("native"), 3)
    for refused in (lambda: agent.learn(99), lambda: agent.save("agent.pt")):
        with pytest.raises(UsageError, match=r"of num_envs=4, .* with 3, .* env with num_envs=4$"):
            refused()
    again = make("diffsurrogate/cartpole-swingup", num_envs=4, differentiable=True)
    assert type(agent) is SHAC
    assert SHAC.load(run("native") / "checkpoints" / "last.pt", again).learn(60).iteration == 3
    agent.load_state_dict(load_checkpoint(run("native") / "checkpoints" / "last.pt")["agent"])
    with pytest.raises(UsageError, match="training on needs"):
        agent.learn(99)

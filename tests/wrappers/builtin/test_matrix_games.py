"""The games pay what their matrices say, for every joint choice."""

import itertools

import pytest
import torch

from diffsurrogate.envs.registry import known_ids, make
from diffsurrogate.training.evaluate import evaluate
from diffsurrogate.wrappers.builtin.matrix_games import MatrixGame

ALL_TWO = tuple(itertools.product(range(3), repeat=2))
"""Joint choices of two agents with three choices each: envs 0 to 8."""


def played(env, choices):
    """Play one joint choice in each env and return reward, terminated, truncated and obs."""
    env.reset(seed=0)
    action = torch.nn.functional.one_hot(torch.tensor(choices), env.act_dim).float()
    obs, reward, terminated, truncated, _ = env.step(action)
    return reward, terminated, truncated, obs


@pytest.mark.parametrize(
    ("env_id", "options", "rows"),
    [
        ("games/climbing", {}, [[11, -30, 0], [-30, 7, 0], [0, 6, 5]]),
        ("games/penalty", {}, [[-100, 0, 10], [0, 2, 0], [10, 0, -100]]),
        ("games/penalty", {"k": -25.0}, [[-25, 0, 10], [0, 2, 0], [10, 0, -25]]),
    ],
)
def test_both_agents_earn_the_entry_of_the_matrix(env_id, options, rows):
    """Agent 0 picks the row, agent 1 the column; the papers' tables."""
    env = make(env_id, num_envs=9, **options)
    reward, terminated, _, obs = played(env, ALL_TWO)
    want = torch.tensor([[rows[k][j]] * 2 for k, j in ALL_TWO], dtype=torch.float32)
    torch.testing.assert_close(reward, want, rtol=0, atol=0)
    assert bool(terminated.all())
    assert bool((obs == 1).all())
    assert obs.shape == (9, 2, 1)
    assert env.max_return().tolist() == [2.0 * max(map(max, rows))] * 9


def crowd(joint):
    return [1 / joint.count(own) for own in joint]


def agreement(joint):
    return [1.0 if len(set(joint)) == 1 else 1 / len(joint)] * len(joint)


@pytest.mark.parametrize("agents", [1, 2, 3])
@pytest.mark.parametrize("game", ["specialisation", "synchronisation"])
def test_every_joint_choice_is_paid_by_how_many_agree(game, agents):
    pays = crowd if game == "specialisation" else agreement
    choices = list(itertools.product(range(agents), repeat=agents))
    env = make(f"games/{game}", num_envs=len(choices), n_agents=agents)
    reward, *_ = played(env, choices)
    torch.testing.assert_close(reward, torch.tensor([pays(joint) for joint in choices]))
    assert float(reward.sum(-1).max()) == env.max_return()[0] == agents


def test_a_users_own_payoffs_may_be_of_three_agents():
    payoff = torch.arange(8.0).reshape(2, 2, 2)
    choices = list(itertools.product(range(2), repeat=3))
    env = make("games/matrix", num_envs=8, payoff=payoff)
    reward, *_ = played(env, choices)
    torch.testing.assert_close(reward, torch.arange(8.0).unsqueeze(-1).expand(8, 3))
    assert env.max_return()[0] == 21


def test_an_episode_has_as_many_repetitions_as_asked():
    """Three repetitions terminate; a time limit of two truncates, and earns two payoffs."""
    env = make("games/climbing", num_envs=5, steps=3)
    best = torch.tensor([[1.0, 0.0, 0.0]] * 2).expand(5, 2, 3)
    env.reset(seed=0)
    ends = [bool(env.step(best)[2].all()) for _ in range(6)]
    assert ends == [False, False, True] * 2
    whole = evaluate(lambda obs: best, env)
    assert whole.mean_return == 3 * 22
    assert whole.normalised_return == 1.0
    env = make("games/climbing", num_envs=5, steps=3, max_steps=2)
    env.reset(seed=0)
    env.step(best)
    _, _, terminated, truncated, _ = env.step(best)
    assert bool(truncated.all())
    assert not bool(terminated.any())
    assert env.max_return()[0] == 44


def test_the_ids_are_listed_and_can_be_made():
    ids = known_ids("games")
    assert ids == [
        "games/climbing",
        "games/penalty",
        "games/specialisation",
        "games/synchronisation",
    ]
    for env_id in ids:
        assert make(env_id, num_envs=2).discrete_actions


def test_a_game_is_an_env_without_the_registry():
    assert MatrixGame(payoff=[[1.0, 0.0], [0.0, 2.0]], num_envs=3).num_agents == 2

"""An env written as functions of its state behaves as the protocol says."""

import pytest
import torch

from diffsurrogate.envs.torch_env import TorchEnv
from diffsurrogate.errors import UsageError

ENVS, AGENTS, SPACE = 7, 3, 2
ZERO = torch.zeros(ENVS, AGENTS, SPACE)


class Points(TorchEnv):
    """Points that move by a tenth of their action; reward is minus the squared distance to 0."""

    def __init__(self, **settings) -> None:
        settings = {"num_envs": ENVS, "obs_dim": SPACE, "act_dim": SPACE} | settings
        super().__init__(agents=["a", "b", "c"], **settings)

    def spawn(self, count, generator):
        return {
            "position": torch.rand(count, AGENTS, SPACE, generator=generator),
            "age": torch.zeros(count, dtype=torch.long),
        }

    def observe(self, state):
        return state["position"]

    def advance(self, state, action):
        return {"position": state["position"] + 0.1 * action, "age": state["age"] + 1}

    def reward(self, state, action, next_state):
        return -next_state["position"].square().sum(-1)


class SparseReward(Points):
    true_gradients = frozenset({"dynamics"})


class RewardOnly(Points):
    true_gradients = frozenset({"reward"})


def started(kind=Points, **settings):
    env = kind(**settings)
    env.reset(seed=3)
    return env


def test_one_step_is_worked_by_hand():
    env = started()
    state = env.state()
    state["simulator"]["state"]["position"].fill_(0.5)
    env.set_state(state)
    obs, reward, terminated, truncated, _ = env.step(torch.ones(ENVS, AGENTS, SPACE))
    torch.testing.assert_close(obs, torch.full((ENVS, AGENTS, SPACE), 0.6))
    torch.testing.assert_close(reward, torch.full((ENVS, AGENTS), -(0.36 + 0.36)))
    assert not terminated.any() and not truncated.any()
    assert obs.dtype == reward.dtype == torch.float32


def test_spaces_name_every_agent():
    env = Points(action_limit=2.5)
    assert env.single_observation_space.shape == (AGENTS, SPACE)
    assert env.observation_space.shape == (ENVS, AGENTS, SPACE)
    assert env.action_high.tolist() == [[2.5, 2.5]] * AGENTS
    assert env.num_agents == 3


@pytest.mark.parametrize(
    ("kind", "differentiable", "state_graph", "reward_graph"),
    [
        (Points, False, False, False),
        (Points, True, True, True),
        (SparseReward, True, True, False),
        (RewardOnly, True, False, False),  # reward here depends on the next state only
    ],
)
def test_graph_is_kept_only_where_declared(kind, differentiable, state_graph, reward_graph):
    env = started(kind, differentiable=differentiable)
    obs, reward, *_ = env.step(ZERO.clone().requires_grad_())
    assert obs.requires_grad is state_graph
    assert reward.requires_grad is reward_graph
    assert env.gradients == (kind.true_gradients if differentiable else frozenset())


def test_gradients_can_be_turned_on_and_off_but_not_invented():
    env = started(SparseReward)
    action = ZERO.clone().requires_grad_()
    env.enable_gradients("dynamics")
    assert env.gradients == {"dynamics"}
    assert env.step(action)[0].requires_grad
    env.disable_gradients()
    env.detach()
    assert env.gradients == frozenset()
    assert not env.step(action)[0].requires_grad
    with pytest.raises(UsageError, match=r"SparseReward\.true_gradients does not name reward"):
        env.enable_gradients("dynamics", "reward")


def test_gradient_is_worked_by_hand():
    env = started(differentiable=True)
    start = env.current_obs
    action = ZERO.clone().requires_grad_()
    _, reward, *_ = env.step(action)
    reward.sum().backward()
    torch.testing.assert_close(action.grad, -0.2 * start)  # d/da of -(p + a / 10)^2 at a = 0


def test_random_stream_does_not_depend_on_which_envs_ended():
    streams = []
    for victim in (1, 4):
        env = started()
        env._reset_where(torch.arange(ENVS) == victim)
        streams.append(env.reset()[0])
    assert torch.equal(*streams)


def test_detach_cuts_the_past():
    env = started(differentiable=True)
    action = ZERO.clone().requires_grad_()
    obs, *_ = env.step(action)
    env.detach()
    assert not env.current_obs.requires_grad
    assert not env._state["position"].requires_grad
    assert torch.equal(env.current_obs, obs)


NAN = float("nan")


@pytest.mark.parametrize(
    ("method", "wrong", "message"),
    [
        ("spawn", lambda *_: ZERO, r"Points.spawn returned a Tensor; a dict of named tensors"),
        ("spawn", lambda *_: {"position": torch.zeros(5, 2)}, r"spawn\['position'\] .* env = 7"),
        ("spawn", lambda *_: {"position": ZERO + NAN}, r"spawn\['position'\] is not finite"),
        (
            "observe",
            lambda s: s["position"][:, 0],
            r"observe .* \(7, 2\); .* \(7, 3, 2\) is needed",
        ),
        (
            "observe",
            lambda s: s["position"].double(),
            r"observe .*float64; torch.float32 is needed",
        ),
        ("advance", lambda s, a: {"position": ZERO}, r"advance .* \['position'\]; .*'age'\] are"),
        ("advance", lambda s, a: s | {"position": ZERO[:, :2]}, r"must stay \(7, 3, 2\)"),
        ("reward", lambda s, a, n: torch.zeros(ENVS), r"\(env, agent\) = \(7, 3\) .*unsqueeze"),
        ("reward", lambda s, a, n: 0.0, r"reward returned a float; a torch.Tensor is needed"),
        ("reward", lambda s, a, n: ZERO[..., 0] / 0, r"reward of env 0 at step 1 .* is not finite"),
        ("terminated", lambda s: torch.zeros(ENVS), r"terminated .*float32; torch.bool is needed"),
    ],
)
def test_wrong_return_value_is_an_error_that_names_the_method(monkeypatch, method, wrong, message):
    monkeypatch.setattr(Points, method, lambda self, *args: wrong(*args))
    with pytest.raises(UsageError, match=message):
        started().step(ZERO)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"obs_dim": 0}, "obs_dim is 0"),
        ({"action_limit": float("inf")}, "action_limit is inf"),
        ({"action_limit": 0.0}, "action_limit is 0.0"),
        ({"num_envs": 0}, "num_envs is 0"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(UsageError, match=message):
        Points(**settings)


def test_gradients_that_do_not_exist_cannot_be_asked_for(monkeypatch):
    monkeypatch.setattr(Points, "true_gradients", frozenset())
    with pytest.raises(UsageError, match="let LearnedDiffWrapper learn them"):
        Points(differentiable=True)
    monkeypatch.setattr(Points, "true_gradients", frozenset({"rewards"}))
    with pytest.raises(UsageError, match=r"names \['rewards'\]"):
        Points()

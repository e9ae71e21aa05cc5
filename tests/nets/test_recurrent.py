"""Networks with memory: step by step or at once, forgetting, who remembers what, values."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from toys.reach import Reach

from diffsurrogate.actor_critic.actor import Actor, ActorConfig
from diffsurrogate.actor_critic.critic import CriticConfig
from diffsurrogate.algorithms.bppo import BPPOConfig
from diffsurrogate.errors import UsageError
from diffsurrogate.nets.build import build_net, build_recurrent_net
from diffsurrogate.nets.config import (
    HyperLinearConfig,
    HyperMLPConfig,
    JointNetConfig,
    SeparateNetConfig,
    SharedNetConfig,
)
from diffsurrogate.nets.hypernet import GeneratedLinear
from diffsurrogate.nets.mlp import AgentLinear
from diffsurrogate.nets.recurrent import AgentGRU, Recurrence, RecurrentNet
from diffsurrogate.surrogates.config import SurrogateConfig
from diffsurrogate.surrogates.heads import RewardConfig
from diffsurrogate.wrappers.learned import LearnedDiffWrapper

TIME, ENVS, AGENTS, OBS, MEMORY, OUT = 11, 5, 3, 7, 13, 2
SIZES = {"hidden": (12,), "gru_size": MEMORY}
KINDS = {
    "joint": JointNetConfig(**SIZES),
    "separate": SeparateNetConfig(**SIZES),
    "separate, centralised": SeparateNetConfig(**SIZES, centralised=True),
    "shared": SharedNetConfig(**SIZES),
    "shared, agent id": SharedNetConfig(**SIZES, agent_id=True, pool_others=False),
    "shared, all": SharedNetConfig(**SIZES, agent_id=True, centralised=True),
    "hyper-linear": HyperLinearConfig(**SIZES),
    "hyper-mlp": HyperMLPConfig(**SIZES),
    "hyper-mlp, centralised": HyperMLPConfig(**SIZES, centralised=True),
}
every_kind = pytest.mark.parametrize("kind", list(KINDS))


def trained(kind: str) -> RecurrentNet:
    """As after some updates: no weight is where it started."""
    torch.manual_seed(0)
    net = build_recurrent_net(KINDS[kind], AGENTS, OBS, OUT)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return net


def some_resets() -> Tensor:
    """Env 0 never, env 1 at the start, env 2 in the middle, env 3 twice in a row, env 4 at last."""
    episode_start = torch.zeros(TIME, ENVS, dtype=torch.bool)
    for step, env in ((0, 1), (6, 2), (4, 3), (5, 3), (TIME - 1, 4)):
        episode_start[step, env] = True
    return episode_start


# --- the cell ------------------------------------------------------------------------------------


@pytest.mark.parametrize("own", [False, True])
def test_the_cell_is_a_gru(own):
    """As torch's, of each agent if weights are its own; biases included."""
    gru = AgentGRU(partial(AgentLinear, AGENTS) if own else nn.Linear, MEMORY)
    x, hidden = torch.randn(TIME, ENVS, AGENTS, MEMORY), torch.randn(ENVS, AGENTS, MEMORY)
    with torch.no_grad():
        for part in (gru.inputs, gru.carry):
            part.bias.normal_()
    got = gru(x, hidden, torch.zeros(TIME, ENVS, dtype=torch.bool))
    for agent in range(AGENTS):
        cell, state = nn.GRUCell(MEMORY, MEMORY), hidden[:, agent]
        pairs = (
            (cell.weight_ih, cell.bias_ih, gru.inputs),
            (cell.weight_hh, cell.bias_hh, gru.carry),
        )
        with torch.no_grad():
            for weight, bias, part in pairs:
                weight.copy_(part.weight[agent] if own else part.weight)
                bias.copy_(part.bias[agent] if own else part.bias)
        for step in range(TIME):
            state = cell(x[step, :, agent], state)
            torch.testing.assert_close(got[step, :, agent], state)


@pytest.mark.parametrize("own", [False, True])
def test_every_matrix_of_the_cell_starts_orthogonal(own):
    gru = AgentGRU(partial(AgentLinear, AGENTS) if own else nn.Linear, MEMORY)
    for part in (gru.inputs, gru.carry):
        matrices = part.weight.reshape(-1, MEMORY, MEMORY)
        assert len(matrices) == (3 * AGENTS if own else 3)
        eye = torch.eye(MEMORY).expand_as(matrices)
        torch.testing.assert_close(matrices @ matrices.mT, eye, atol=1e-5, rtol=0)
        assert not part.bias.any()


# --- through time --------------------------------------------------------------------------------


@every_kind
def test_stepping_with_carried_states_is_the_pass_through_the_window(kind):
    """With resets inside, forward and backward, to the weights, the inputs and the first state."""
    net, episode_start = trained(kind), some_resets()
    x, first = torch.randn(TIME, ENVS, AGENTS, OBS), torch.randn(ENVS, AGENTS, MEMORY)
    weigh = torch.randn(TIME, ENVS, AGENTS, OUT)
    results = []
    for at_once in (True, False):
        net.zero_grad()
        inputs, start = x.clone().requires_grad_(), first.clone().requires_grad_()
        if at_once:
            out, states = net(inputs, Recurrence(hidden=start, episode_start=episode_start))
        else:
            rows, hidden = [], start
            for step in range(TIME):
                past = Recurrence(hidden=hidden, episode_start=episode_start[step : step + 1])
                row, after = net(inputs[step : step + 1], past)
                rows.append((row[0], after[0]))
                hidden = after[0]
            out, states = map(torch.stack, zip(*rows, strict=True))
        assert (out.shape, states.shape) == (weigh.shape, (TIME, ENVS, AGENTS, MEMORY))
        (out * weigh).sum().backward()
        gradients = [p.grad.clone() for p in net.parameters()]
        results.append([out, states, inputs.grad, start.grad, *gradients])
    for one, other in zip(*results, strict=True):
        assert one.abs().max() > 0
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)


@every_kind
def test_nothing_crosses_an_episode_start(kind):
    """Env 2 restarts at step 6: neither values nor gradients come from before, in no env."""
    net, episode_start = trained(kind), some_resets()
    x = torch.randn(TIME, ENVS, AGENTS, OBS, requires_grad=True)
    hidden = torch.randn(ENVS, AGENTS, MEMORY, requires_grad=True)
    out, _ = net(x, Recurrence(hidden=hidden, episode_start=episode_start))
    steps, start = torch.autograd.grad(out[-1, 2].sum(), (x, hidden))
    felt = steps.abs().sum((-2, -1)) > 0
    assert felt[:, 2].tolist() == [False] * 6 + [True] * 5
    assert not felt[:, [0, 1, 3, 4]].any() and not start.any()
    ruined = hidden.detach().clone()
    ruined[[1, 2, 3, 4]] = torch.inf
    other = x.detach().clone()
    other[:6, 2] = torch.nan
    again, _ = net(other, Recurrence(hidden=ruined, episode_start=episode_start))
    torch.testing.assert_close(again[6:, 2], out[6:, 2])
    torch.testing.assert_close(again[:, 1], out[:, 1])
    (whole,) = torch.autograd.grad(
        net(x, Recurrence(hidden=hidden, episode_start=episode_start))[0][-1, 0].sum(), x
    )
    assert (whole[:, 0].abs().sum((-2, -1)) > 0).all()  # where no episode begins, all is felt


# --- whose memory, and who sees whom -------------------------------------------------------------


@every_kind
def test_which_agents_inputs_are_seen_does_not_depend_on_memory(kind):
    net, sees = trained(kind), KINDS[kind].hears_others
    x = torch.randn(TIME, 1, AGENTS, OBS, requires_grad=True)
    past = Recurrence(hidden=torch.zeros(1, AGENTS, MEMORY), episode_start=torch.zeros(TIME, 1) > 0)
    (grad,) = torch.autograd.grad(net(x, past)[0][-1, 0, 0].sum(), x)
    assert grad[0, 0].any(-1).tolist() == [True, sees, sees]  # of the first step


@every_kind
def test_agents_share_a_memory_where_they_share_or_generate_weights(kind):
    own = KINDS[kind].architecture in ("joint", "separate")
    layer = AgentLinear if own else nn.Linear
    net = trained(kind)
    parts = (*net.encoder.modules(), *net.memory.modules())
    assert [type(m) for m in parts if isinstance(m, AgentLinear | nn.Linear)] == [layer] * 3


@pytest.mark.parametrize("agent_id", [True, False])
def test_a_shared_memory_tells_agents_apart_only_by_ids(agent_id):
    config = replace(KINDS["shared, agent id"], agent_id=agent_id)
    net = build_recurrent_net(config, AGENTS, OBS, OUT)
    x = torch.randn(TIME, ENVS, 1, OBS).expand(-1, -1, AGENTS, -1)
    past = Recurrence(hidden=torch.zeros(ENVS, AGENTS, MEMORY), episode_start=some_resets())
    _, states = net(x, past)
    assert bool((states[..., 0, :] != states[..., 1, :]).any()) is agent_id


@pytest.mark.parametrize("kind", ["hyper-linear", "hyper-mlp"])
def test_what_reads_a_shared_memory_is_generated(kind):
    """The two layers after it are each agent's."""
    reader = trained(kind).net
    assert [type(layer) for layer in reader.layers] == [GeneratedLinear] * 2
    shapes = [tuple(weight.shape) for weight, _ in reader.generate()]
    assert shapes == [(AGENTS, 12, MEMORY), (AGENTS, OUT, 12)]


@every_kind
def test_the_head_has_its_gain_and_every_weight_a_gradient(kind):
    x = torch.randn(TIME, ENVS, AGENTS, OBS)
    past = Recurrence(hidden=torch.zeros(ENVS, AGENTS, MEMORY), episode_start=some_resets())
    still = build_recurrent_net(KINDS[kind], AGENTS, OBS, OUT, head_gain=0.0)
    assert not still(x, past)[0].any()
    net = trained(kind)
    net(x, past)[0].square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in net.parameters())


# --- invalid settings -----------------------------------------------------------------------


REMEMBERS = SeparateNetConfig(gru_size=5)
RECURRENT = SurrogateConfig(reward=RewardConfig(net=JointNetConfig(gru_size=5)))


@pytest.mark.parametrize(
    ("build", "advice"),
    [
        (lambda: JointNetConfig(gru_size=-1), "gru_size is -1"),
        (lambda: build_net(REMEMBERS, AGENTS, OBS, OUT), "policies and critics of SHAC"),
        (lambda: ActorConfig(net=REMEMBERS, order="listed"), "one after another"),
        (lambda: BPPOConfig(critic=CriticConfig(net=REMEMBERS)), "agents in turn"),
        (
            lambda: Actor(ActorConfig(net=REMEMBERS), 1, OBS, -torch.ones(1, 2), torch.ones(1, 2)),
            "build_actor",
        ),
        (
            lambda: LearnedDiffWrapper(Reach(differentiable=False), config=RECURRENT),
            "leave it at 0",
        ),
    ],
)
def test_memory_is_refused_where_no_hidden_state_is_kept(build, advice):
    with pytest.raises(UsageError, match=advice):
        build()

"""Networks over agents: shapes, symmetry, and what a new one answers."""

import pytest
import torch

from diffsurrogate.errors import UsageError
from diffsurrogate.nets.build import AgentNet, build_net
from diffsurrogate.nets.config import (
    NET_CONFIGS,
    DiCoConfig,
    HyperLinearConfig,
    HyperMLPConfig,
    JointNetConfig,
    NetConfig,
    SeparateNetConfig,
    SharedNetConfig,
    TransformerConfig,
)
from diffsurrogate.nets.mlp import AgentLinear

ENVS, AGENTS, OBS, OUT = 7, 3, 5, 2
ALL = ["joint", "separate", "shared", "transformer", "hyper-linear", "hyper-mlp"]


def small(architecture: str, **kwargs: object) -> NetConfig:
    return NET_CONFIGS[architecture](hidden=(12, 12), **kwargs)


def trained(config: NetConfig) -> AgentNet:
    """As after some updates: no weight is where it started."""
    torch.manual_seed(0)
    net = build_net(config, AGENTS, OBS, OUT)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return net


@pytest.mark.parametrize("architecture", [*ALL, "dico"])
@pytest.mark.parametrize("leading", [(), (ENVS,), (11, ENVS), (2, 11, ENVS), (0,)])
def test_leading_axes_are_kept(architecture, leading):
    net = build_net(small(architecture), AGENTS, OBS, OUT)
    x = torch.randn(*leading, AGENTS, OBS)
    out = net(x)
    assert out.shape == (*leading, AGENTS, OUT)
    if len(leading) > 1:
        torch.testing.assert_close(out, net(x.flatten(0, -3)).reshape(out.shape))


@pytest.mark.parametrize("architecture", [*ALL, "dico"])
@pytest.mark.parametrize("activation", ["elu", "relu", "silu", "tanh"])
@pytest.mark.parametrize("layer_norm", [True, False])
def test_every_activation_and_norm_gives_every_weight_a_gradient(
    architecture, activation, layer_norm
):
    net = trained(small(architecture, activation=activation, layer_norm=layer_norm))
    net(torch.randn(ENVS, AGENTS, OBS)).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in net.parameters())


@pytest.mark.parametrize(
    ("architecture", "equivariant"),
    [
        *(("joint", False), ("separate", False), ("hyper-linear", False), ("hyper-mlp", False)),
        *(("shared", True), ("transformer", True)),
    ],
)
def test_only_shared_and_transformer_forget_the_order_of_agents(architecture, equivariant):
    net = trained(small(architecture))
    x, order = torch.randn(ENVS, AGENTS, OBS), [2, 0, 1]
    difference = (net(x[:, order]) - net(x)[:, order]).abs().max().item()
    assert difference < 1e-5 if equivariant else difference > 0.1


def test_a_transformer_may_embed_each_agent_by_an_mlp():
    """Hidden layers of 9 and 8 before the width of 12: linear, activation and norm of each."""
    config = small("transformer", embed=(9, 8), heads=3)
    net = trained(config)
    assert [tuple(layer.weight.shape) for layer in net.embed if hasattr(layer, "weight")] == [
        *((9, OBS), (9,)),
        *((8, 9), (8,)),
        *((12, 8), (12,)),
    ]
    x, order = torch.randn(ENVS, AGENTS, OBS), [2, 0, 1]
    torch.testing.assert_close(net(x[:, order]), net(x)[:, order])
    net(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in net.parameters())


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("leading", [(ENVS,), (11, ENVS), ()])
def test_a_separate_net_is_as_many_nets_as_agents(layer_norm, leading):
    """Each agent's equals a joint net of one agent with the same weights."""
    many = trained(small("separate", layer_norm=layer_norm))
    x = torch.randn(*leading, AGENTS, OBS)
    out = many(x)
    layers = [layer for layer in many.net if isinstance(layer, AgentLinear)]
    assert [tuple(layer.weight.shape) for layer in layers] == [
        *((AGENTS, 12, OBS), (AGENTS, 12, 12), (AGENTS, OUT, 12)),
    ]
    for agent in range(AGENTS):
        one = build_net(small("joint", layer_norm=layer_norm), 1, OBS, OUT)
        own = [layer for layer in one.net if isinstance(layer, torch.nn.Linear)]
        with torch.no_grad():
            for mine, theirs in zip(own, layers, strict=True):
                mine.weight.copy_(theirs.weight[agent])
                mine.bias.copy_(theirs.bias[agent])
        alone = slice(agent, agent + 1)
        torch.testing.assert_close(out[..., alone, :], one(x[..., alone, :]))


CENTRAL = ["separate", "shared", "hyper-linear", "hyper-mlp"]


@pytest.mark.parametrize("architecture", CENTRAL)
@pytest.mark.parametrize("leading", [(), (ENVS,), (11, ENVS), (0,)])
def test_a_central_net_shows_every_agent_all(architecture, leading):
    """As a net of one agent's features that are all agents' in a row."""
    net = trained(small(architecture, centralised=True, layer_norm=False))
    x = torch.randn(*leading, AGENTS, OBS, requires_grad=True)
    out = net(x)
    assert out.shape == (*leading, AGENTS, OUT)
    row = x.flatten(-2).unsqueeze(-2).repeat_interleave(AGENTS, dim=-2)
    torch.testing.assert_close(out, net.net(row))
    if x.numel() > 0:
        (grad,) = torch.autograd.grad(out[..., 1, :].sum(), x)
        assert grad.any(-1).all()


@pytest.mark.parametrize("pool_others", [False, True])
def test_a_shared_net_with_ids_is_one_net_with_ids_appended(pool_others):
    net = trained(small("shared", pool_others=pool_others, agent_id=True))
    x = torch.randn(11, ENVS, AGENTS, OBS)
    parts = [x, torch.eye(AGENTS).expand(11, ENVS, -1, -1)]
    if pool_others:
        parts.insert(1, net.pool(x).mean(-2, keepdim=True).expand(-1, -1, AGENTS, -1))
    torch.testing.assert_close(net(x), net.net(torch.cat(parts, dim=-1)))
    same = x[..., :1, :].expand_as(x)
    assert (net(same)[..., 0, :] - net(same)[..., 1, :]).abs().max() > 0.1


def test_a_transformer_with_ids_is_one_with_ids_appended():
    net = trained(small("transformer", agent_id=True))
    plain = build_net(small("transformer"), AGENTS, OBS + AGENTS, OUT)
    plain.load_state_dict(net.state_dict())
    x = torch.randn(11, ENVS, AGENTS, OBS)
    numbers = torch.eye(AGENTS).expand(11, ENVS, -1, -1)
    torch.testing.assert_close(net(x), plain(torch.cat([x, numbers], dim=-1)))
    same = net(x[..., :1, :].expand_as(x))
    assert (same[..., 0, :] - same[..., 1, :]).abs().max() > 0.1


@pytest.mark.parametrize(
    ("config", "hears"),
    [
        (JointNetConfig(), True),
        (TransformerConfig(), True),
        (SharedNetConfig(), True),
        (SharedNetConfig(pool_others=False), False),
        (SharedNetConfig(pool_others=False, centralised=True), True),
        (SeparateNetConfig(), False),
        (HyperLinearConfig(), False),
        (HyperMLPConfig(), False),
        (HyperMLPConfig(centralised=True), True),
        (DiCoConfig(), False),
    ],
)
def test_a_configuration_knows_whether_agents_see_each_other(config, hears):
    assert config.hears_others is hears
    x = torch.randn(1, AGENTS, OBS, requires_grad=True)
    (grad,) = torch.autograd.grad(trained(config)(x)[0, 0].sum(), x)
    assert grad[0].any(-1).tolist() == [True, hears, hears]


def test_agents_with_equal_views_act_as_one_whatever_their_number():
    view = torch.randn(ENVS, 1, OBS)
    for architecture in ("shared", "transformer"):
        net = trained(small(architecture))
        one, many = net(view.expand(-1, 2, -1)), net(view.expand(-1, 11, -1))
        torch.testing.assert_close(many, one[:, :1].expand_as(many))


@pytest.mark.parametrize(
    "config",
    [small(kind) for kind in ALL] + [small(kind, centralised=True) for kind in CENTRAL],
    ids=str,
)
def test_a_head_gain_of_0_answers_0(config):
    x = torch.randn(ENVS, AGENTS, OBS)
    assert not build_net(config, AGENTS, OBS, OUT, head_gain=0.0)(x).any()
    assert build_net(config, AGENTS, OBS, OUT, head_gain=0.01)(x).any()


@pytest.mark.parametrize("architecture", ["shared", "separate"])
def test_the_head_is_orthogonal_with_its_gain(architecture):
    """Each agent's, where weights are its own; these begin apart."""
    head = build_net(small(architecture), AGENTS, OBS, OUT, head_gain=3.0).head
    matrices = head.weight.reshape(-1, OUT, 12)
    squares = matrices @ matrices.mT
    torch.testing.assert_close(squares, 9 * torch.eye(OUT).expand_as(squares))
    assert len(matrices.unique(dim=0)) == (AGENTS if architecture == "separate" else 1)
    assert not head.bias.any()


def test_joint_has_the_layers_its_configuration_names():
    config = JointNetConfig(hidden=(11, 13))
    shapes = [tuple(p.shape) for p in build_net(config, AGENTS, OBS, OUT).parameters()]
    assert shapes == [
        *[(11, AGENTS * OBS), (11,), (11,), (11,)],  # linear and its LayerNorm
        *[(13, 11), (13,), (13,), (13,)],
        *[(AGENTS * OUT, 13), (AGENTS * OUT,)],
    ]


@pytest.mark.parametrize("architecture", [*ALL, "dico"])
def test_the_same_seed_builds_the_same_network(architecture):
    def build() -> list[torch.Tensor]:
        torch.manual_seed(5)
        return list(build_net(small(architecture), AGENTS, OBS, OUT).parameters())

    assert all(torch.equal(a, b) for a, b in zip(build(), build(), strict=True))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: JointNetConfig(hidden=()), "at least one width"),
        (lambda: SharedNetConfig(hidden=(64, 0)), "at least 1"),
        (lambda: TransformerConfig(hidden=(64,), heads=3), "3 heads"),
        (lambda: TransformerConfig(heads=0), "heads is 0"),
        (lambda: TransformerConfig(embed=(8, 0)), "embed"),
        (lambda: HyperMLPConfig(identity_size=0), "identity_size is 0"),
        (lambda: HyperMLPConfig(hyper_hidden=()), "hyper-linear is the one"),
        (lambda: HyperMLPConfig(hyper_hidden=(64, 0)), "hyper_hidden"),
    ],
)
def test_invalid_networks_are_refused(build, message):
    with pytest.raises(UsageError, match=message):
        build()

"""Generated networks are ordinary ones, and their gradient is the chain rule."""

import math

import pytest
import torch

from diffsurrogate.config import changed_to
from diffsurrogate.nets.build import build_net
from diffsurrogate.nets.config import (
    NET_CONFIGS,
    HyperLinearConfig,
    HyperMLPConfig,
    NetConfig,
    SeparateNetConfig,
    SharedNetConfig,
)
from diffsurrogate.nets.hypernet import GeneratedLinear, HyperNet, orthogonal_identity
from diffsurrogate.nets.mlp import AgentLinear, SeparateNet

ENVS, AGENTS, OBS, OUT = 7, 3, 5, 2
HYPER = ["hyper-linear", "hyper-mlp"]


def small(architecture: str, **kwargs: object) -> NetConfig:
    return NET_CONFIGS[architecture](hidden=(12, 11), **kwargs)


def trained(config: NetConfig) -> HyperNet:
    """As after some updates: no weight is where it started, biases are not 0."""
    torch.manual_seed(0)
    net = build_net(config, AGENTS, OBS, OUT)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    assert isinstance(net, HyperNet)
    return net


def ordinary(net: HyperNet, config: NetConfig) -> SeparateNet:
    """Return separate networks with the weights that are generated now."""
    copy = build_net(changed_to(SeparateNetConfig, config), AGENTS, OBS, OUT)
    assert isinstance(copy, SeparateNet)
    layers = [layer for layer in copy.net if isinstance(layer, AgentLinear)]
    with torch.no_grad():
        for layer, (weight, bias) in zip(layers, net.generate(), strict=True):
            layer.weight.copy_(weight)
            layer.bias.copy_(bias)
    return copy


@pytest.mark.parametrize("architecture", HYPER)
@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("leading", [(ENVS,), (11, ENVS), ()])
def test_a_generated_network_equals_an_ordinary_one_with_its_weights(
    architecture, layer_norm, leading
):
    """Forward, and back to the input."""
    config = small(architecture, layer_norm=layer_norm, activation="tanh")
    net = trained(config)
    x = torch.randn(*leading, AGENTS, OBS, requires_grad=True)
    out, plain = net(x), ordinary(net, config)(x)
    torch.testing.assert_close(out, plain)
    (grad,) = torch.autograd.grad(out.square().sum(), x)
    (expected,) = torch.autograd.grad(plain.square().sum(), x)
    torch.testing.assert_close(grad, expected)


def test_linear_without_a_bias_would_be_separate_networks():
    """θ_i = W_i + b (equation 9): one agent's gradient reaches its own W and the common b."""
    net = trained(small("hyper-linear"))
    out = net(torch.randn(ENVS, AGENTS, OBS))
    out[:, 1].square().sum().backward()
    head = net.layers[0].weight_head
    assert head.weight.grad.any(0).tolist() == [False, True, False]
    torch.testing.assert_close(head.bias.grad, head.weight.grad[:, 1])


def test_one_mlp_generates_for_all_agents():
    net = trained(small("hyper-mlp"))
    net(torch.randn(ENVS, AGENTS, OBS))[:, 1].square().sum().backward()
    assert net.identity.grad.any(-1).tolist() == [False, True, False]
    assert all(p.grad.any() for name, p in net.named_parameters() if name != "identity")


@pytest.mark.parametrize("gain", [0.01, 1.0, 3.0])
def test_every_agent_of_a_new_linear_hypernetwork_is_an_ordinary_orthogonal_network(gain):
    """Gains √2 of hidden layers, the head's own, biases 0, and no two agents alike."""
    net = build_net(small("hyper-linear"), AGENTS, OBS, OUT, head_gain=gain)
    first, second, head = net.generate()
    for (weight, bias), size in ((first, 2.0), (second, 2.0), (head, gain**2)):
        assert not bias.any()
        assert not torch.equal(weight[0], weight[1])
        for matrix in weight:
            small_side = min(matrix.shape)
            product = matrix @ matrix.T if matrix.shape[0] == small_side else matrix.T @ matrix
            torch.testing.assert_close(product, size * torch.eye(small_side))


@pytest.mark.parametrize("agents", [3, 37])
def test_every_agent_of_a_new_mlp_hypernetwork_is_as_large_as_an_orthogonal_network(agents):
    """An orthogonal (40, 30) matrix of gain √2 has squared norm 2 * 30; sums of orthogonal ones
    have it on average, with 8 features of the identity as with 64."""
    for hidden in ((8,), (64,), (64, 64)):
        torch.manual_seed(0)
        config = HyperMLPConfig(hidden=(40,), hyper_hidden=hidden)
        (weight, bias), _ = build_net(config, agents, 30, OUT).generate()
        assert not bias.any()
        mean = weight.square().sum((1, 2)).mean().item()
        assert mean == pytest.approx(60, rel=0.12)
        assert not torch.equal(weight[0], weight[1])


def test_an_agent_of_a_new_mlp_hypernetwork_is_no_orthogonal_network():
    """A sum of orthogonal matrices has singular values from 0 to 2 and more times the gain, where
    an orthogonal one of gain √2 has √2 alone; an agent's mean square is not far from 2."""
    for seed in range(5):
        torch.manual_seed(seed)
        config = HyperMLPConfig(hidden=(64, 64), identity_size=4)
        for weight, _ in build_net(config, 4, 64, 9).generate()[:2]:
            singular = torch.linalg.svdvals(weight) / math.sqrt(2)  # (agent, 64)
            assert singular.min() < 0.2
            assert 1.5 < singular.max() < 2.5
            square = singular.square().mean(-1)
            assert 0.3 < square.min() and square.max() < 1.8
            assert square.mean().item() == pytest.approx(1.0, abs=0.1)


def test_learned_identities_start_orthogonal_with_length_sqrt_2():
    identity = orthogonal_identity(3, 5)
    torch.testing.assert_close(identity @ identity.T, 2 * torch.eye(3))
    crowd = orthogonal_identity(11, 5)  # no room for 11 orthogonal ones
    torch.testing.assert_close(crowd.norm(dim=-1), torch.full((11,), math.sqrt(2)))


def test_a_layer_by_hand():
    """Two agents, one input, one output: weight 3 e, bias 5 e + 1 with e = 1 and 2."""
    layer = GeneratedLinear(1, (), 1, 1)
    with torch.no_grad():
        layer.weight_head.weight.fill_(3)
        layer.weight_head.bias.fill_(0)
        layer.bias_head.weight.fill_(5)
        layer.bias_head.bias.fill_(1)
    weight, bias = layer(torch.tensor([[1.0], [2.0]]))
    assert weight.tolist() == [[[3]], [[6]]]
    assert bias.tolist() == [[6], [11]]


def count(config: NetConfig, agents: int, out_dim: int, in_dim: int = 16) -> int:
    return sum(p.numel() for p in build_net(config, agents, in_dim, out_dim).parameters())


@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [
        (SeparateNetConfig, {}, 44_584),
        (HyperLinearConfig, {}, 55_730),
        (SharedNetConfig, {"pool_others": False, "agent_id": True}, 11_658),
        # 65 per generated number, 320 per hidden layer, 16 per embedding: the paper's code has one
        # embedding for actor and critic and 728,346
        (HyperMLPConfig, {}, 728_346 + 16),
    ],
    ids=["NoPS", "linear", "FuPS+ID", "MLP"],
)
def test_actor_and_critic_have_the_papers_number_of_weights(kind, options, expected):
    """HyperMARL on VMAS's Dispersion, 4 agents: 16 features, 9 choices, two layers of 64."""
    config = kind(hidden=(64, 64), activation="relu", layer_norm=False, **options)
    assert count(config, 4, 9) + count(config, 4, 1) == expected

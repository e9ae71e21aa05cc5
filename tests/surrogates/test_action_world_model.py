"""The action world model: at once or step by step, fair to agents, blind to the future."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck

from diffsurrogate.errors import UsageError
from diffsurrogate.surrogates.action_world_model import (
    ActionWorldModel,
    ActionWorldModelConfig,
    trajectory_loss,
)

ENVS, AGENTS, OBS, ACT, HORIZON = 7, 3, 5, 2, 11
ALL = torch.ones(OBS, dtype=torch.bool)
VALID = torch.ones(ENVS, HORIZON, dtype=torch.bool)


def model(**config: Any) -> ActionWorldModel:
    """Make a model that does move things: its head is not zero."""
    torch.manual_seed(0)
    made = ActionWorldModel(ActionWorldModelConfig(**config), AGENTS, OBS, ACT)
    nn.init.normal_(made.head.weight, std=0.3)
    made.set_statistics(3 * obs(), 3 * obs()[:, None] + obs(HORIZON), VALID)
    return made


def obs(*time: int) -> Tensor:
    """(env, *time, agent, obs_dim)."""
    return torch.randn(ENVS, *time, AGENTS, OBS, generator=torch.Generator().manual_seed(1))


def actions(horizon: int = HORIZON) -> Tensor:
    """(env, time, agent, act_dim)."""
    generator = torch.Generator().manual_seed(2)
    return torch.randn(ENVS, horizon, AGENTS, ACT, generator=generator)


def influence(world: ActionWorldModel, step: int, agent: int) -> Tensor:
    """(time, agent) bool: which actions change the prediction of `agent` after `step` actions."""
    action = actions().requires_grad_()
    world(obs(), action)[:, step, agent].sum().backward()
    assert action.grad is not None
    return action.grad.abs().sum(dim=(0, 3)) > 0


# --- what it predicts --------------------------------------------------------------------------


def test_a_new_model_says_that_nothing_moves_and_has_loss_one() -> None:
    world = ActionWorldModel(ActionWorldModelConfig(), AGENTS, OBS, ACT)
    world.set_statistics(obs(), obs(HORIZON), VALID)
    still = obs()[:, None].expand(-1, HORIZON, -1, -1)
    assert torch.equal(world(obs(), actions()), still)
    loss = trajectory_loss(world, obs(), actions(), obs(HORIZON), VALID, ALL)
    assert loss.item() == pytest.approx(1)


@pytest.mark.parametrize("predict", ["change", "absolute"])
def test_permuting_agents_permutes_predictions(predict: str) -> None:
    world, order = model(predict=predict), [2, 0, 1]
    permuted = world(obs()[:, order], actions()[:, :, order])
    torch.testing.assert_close(permuted, world(obs(), actions())[:, :, order], atol=1e-5, rtol=0)


@pytest.mark.parametrize("agents", [1, 2, 13])
def test_any_number_of_agents(agents: int) -> None:
    out = model()(torch.zeros(2, agents, OBS), torch.zeros(2, HORIZON, agents, ACT))
    assert out.shape == (2, HORIZON, agents, OBS)


@pytest.mark.parametrize("layers", [1, 3])
def test_one_layer_sees_own_past_and_everyone_now_and_three_everyones_past(layers: int) -> None:
    expected = torch.zeros(HORIZON, AGENTS, dtype=torch.bool)
    expected[:5, 1 if layers == 1 else slice(None)] = True
    expected[4] = True
    assert torch.equal(influence(model(layers=layers), step=4, agent=1), expected)


def test_chunks_change_no_number() -> None:
    chunked, whole = model(chunk=3), model()
    results = []
    for world in (chunked, whole):
        action = actions().requires_grad_()
        out = world(obs(), action)
        results.append((out, *torch.autograd.grad(out.square().sum(), action)))
    torch.testing.assert_close(results[0], results[1], atol=1e-5, rtol=1e-5)


def test_it_is_torchs_own_transformer_under_the_papers_mask() -> None:
    world = model(predict="absolute", heads=2)
    encoder = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(64, 2, 128, dropout=0.0, batch_first=True),
        num_layers=3,
        enable_nested_tensor=False,
    )
    ours = ("qkv", "out", "up", "down", "norm1", "norm2")
    theirs = (
        "self_attn.in_proj_",
        "self_attn.out_proj.",
        "linear1.",
        "linear2.",
        "norm1.",
        "norm2.",
    )
    for mine, layer in zip(world.layers, encoder.layers, strict=True):
        weights = {
            there + kind: mine.state_dict()[f"{here}.{kind}"]
            for here, there in zip(ours, theirs, strict=True)
            for kind in ("weight", "bias")
        }
        layer.load_state_dict(weights)
    grid = [(i, j) for i in range(HORIZON + 1) for j in range(AGENTS)]
    unseen = torch.tensor([[not (i == k or (k < i and j == m)) for k, m in grid] for i, j in grid])
    state = world.state_in((obs() - world.obs_mean) / world.obs_std)
    token = torch.cat([state[:, None], world.action_in(actions())], dim=1)
    token = token + world.step_embedding.weight[: HORIZON + 1, None]
    out = world.head(encoder(token.flatten(1, 2), mask=unseen)).unflatten(1, (-1, AGENTS))[:, 1:]
    expected = world.obs_mean + world.obs_std * out
    torch.testing.assert_close(world(obs(), actions()), expected, atol=1e-5, rtol=1e-5)


# --- step by step ------------------------------------------------------------------------------


def step_by_step(
    world: ActionWorldModel, start: Tensor, action: Tensor, restarts: dict[int, Tensor]
) -> Tensor:
    """Step through `action`; before step t, envs in `restarts[t]` restart at `start[t]`."""
    memory, predictions = world.begin(start[0]), []
    for t in range(action.shape[1]):
        if t in restarts:
            memory = world.restart(memory, restarts[t], start[t])
        prediction, memory = world.step(memory, start[t], action[:, t])
        predictions.append(prediction)
    return torch.stack(predictions, dim=1)


def segment_by_segment(
    world: ActionWorldModel, start: Tensor, action: Tensor, restarts: dict[int, Tensor]
) -> Tensor:
    """Predict the same by one batch call for every env and every stretch between restarts."""
    rows = []
    for env in range(ENVS):
        cuts = [0, *(t for t in restarts if t and restarts[t][env]), action.shape[1]]
        pieces = [
            world(start[a, env : env + 1], action[env : env + 1, a:b]) for a, b in pairwise(cuts)
        ]
        rows.append(torch.cat(pieces, dim=1))
    return torch.cat(rows)


def envs(*which: int) -> Tensor:
    """(env,) bool."""
    return torch.tensor([env in which for env in range(ENVS)])


RESTARTS = {
    "none": {},
    "at once": {0: envs(1, 4)},
    "one env, then again": {2: envs(3), 3: envs(3)},
    "some, others, all, none": {3: envs(0, 6), 5: envs(2, 6), 7: envs(*range(ENVS)), 8: envs()},
    "the oldest env": {4: envs(0, 1, 2, 3, 4, 5), 6: envs(6)},
}


@pytest.mark.parametrize("restarts", RESTARTS.values(), ids=RESTARTS.keys())
@pytest.mark.parametrize("config", [{}, {"predict": "absolute", "heads": 2, "layers": 2}])
def test_step_by_step_is_all_at_once(restarts: dict[int, Tensor], config: dict[str, Any]) -> None:
    world = model(**config)
    start = torch.randn(HORIZON, ENVS, AGENTS, OBS, generator=torch.Generator().manual_seed(4))
    if 0 in restarts:  # a restart before the first action replaces the start
        start[0] = obs()
    cotangent = torch.randn(ENVS, HORIZON, AGENTS, OBS, generator=torch.Generator().manual_seed(5))
    results = []
    for rollout in (step_by_step, segment_by_segment):
        leaves = [start.clone().requires_grad_(), actions().requires_grad_(), *world.parameters()]
        out = rollout(world, leaves[0], leaves[1], restarts)
        results.append((out, *torch.autograd.grad((out * cotangent).mean(), leaves)))
    torch.testing.assert_close(results[0], results[1], atol=1e-5, rtol=1e-5)


def test_memory_is_a_value() -> None:
    world = model()
    memory = world.begin(obs())
    first, _ = world.step(memory, obs(), actions()[:, 0])
    world.restart(memory, envs(2), -obs())
    world.step(memory, obs(), actions()[:, 1])
    again, _ = world.step(memory, obs(), actions()[:, 0])
    assert torch.equal(first, again)


def test_with_restarts_a_stream_may_go_on_beyond_max_horizon() -> None:
    world = ActionWorldModel(ActionWorldModelConfig(max_horizon=4), AGENTS, OBS, ACT)
    memory = world.restart(world.begin(obs()), envs(1), obs())
    for t in range(HORIZON):
        ended = (memory.step == 4) | (envs(5) if t == 2 else envs())
        memory = world.restart(memory, ended, obs())
        _, memory = world.step(memory, obs(), actions()[:, t])
    assert memory.step.tolist() == [3, 3, 3, 3, 3, 1, 3]  # 11 = 4 + 4 + 3 = 2 + 4 + 4 + 1
    assert [key.shape[-2] for key in memory.keys] == [4, 4, 4]  # no longer than the longest


@pytest.mark.parametrize("horizon", [5, 6])
def test_a_horizon_too_long_is_refused(horizon: int) -> None:
    world = ActionWorldModel(ActionWorldModelConfig(max_horizon=4), AGENTS, OBS, ACT)
    with pytest.raises(UsageError, match=rf"{horizon} steps.*max_horizon=4.*detach\(\)"):
        world(obs(), actions(horizon))


def test_a_step_too_many_is_refused() -> None:
    world = ActionWorldModel(ActionWorldModelConfig(max_horizon=2), AGENTS, OBS, ACT)
    memory = world.begin(obs())
    _, memory = world.step(memory, obs(), actions()[:, 0])
    memory = world.restart(memory, envs(0, 1), obs())
    _, memory = world.step(memory, obs(), actions()[:, 1])
    with pytest.raises(UsageError, match=r"3 steps.*max_horizon=2.*detach\(\)"):
        world.step(memory, obs(), actions()[:, 2])
    memory = world.restart(memory, memory.step == 2, obs())
    world.step(memory, obs(), actions()[:, 2])


# --- statistics and loss -----------------------------------------------------------------------


def test_statistics_by_hand() -> None:
    world = ActionWorldModel(ActionWorldModelConfig(max_horizon=4), 1, 2, ACT)
    start = torch.tensor([[[0.0, 5.0]], [[2.0, 5.0]]])
    targets = torch.tensor([[[[3.0, 5.0]], [[7.0, 5.0]]], [[[6.0, 5.0]], [[99.0, 99.0]]]])
    valid = torch.tensor([[True, True], [True, False]])
    world.set_statistics(start, targets, valid)
    # entry 0 was 0, 2, 3, 7, 6: mean 3.6, mean square 19.6; entry 1 stands still at 5.
    torch.testing.assert_close(world.obs_mean, torch.tensor([3.6, 5.0]))
    torch.testing.assert_close(world.obs_std, torch.tensor([(19.6 - 3.6**2) ** 0.5, 5.0]))
    # after step 1 it moved by 3 and 4, after step 2 by 7; steps 3 and 4 were never reached.
    scale = torch.tensor([[12.5**0.5, 0.15], [7.0, 0.15], [7.0, 0.15], [7.0, 0.15]])
    torch.testing.assert_close(world.change_scale, scale)


def test_loss_by_hand() -> None:
    world = ActionWorldModel(ActionWorldModelConfig(), 1, 2, ACT)
    world.change_scale[:2] = torch.tensor([[1.0, 1.0], [2.0, 1.0]])
    targets = torch.tensor([[[[3.0, 9.0]], [[8.0, 9.0]]], [[[5.0, 9.0]], [[torch.nan, 9.0]]]])
    valid = torch.tensor([[True, True], [True, False]])
    arguments = (torch.zeros(2, 1, 2), torch.zeros(2, 2, 1, ACT), targets, valid)
    loss = trajectory_loss(world, *arguments, torch.tensor([True, False]))
    assert loss.item() == pytest.approx((3**2 + (8 / 2) ** 2 + 5**2) / 3)
    loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in world.parameters())


def test_statistics_of_nothing_are_refused() -> None:
    with pytest.raises(UsageError, match="no step is valid"):
        model().set_statistics(obs(), obs(HORIZON), ~VALID)


def test_unnormalised_absolute_is_the_papers_loss() -> None:
    world = model(predict="absolute", normalise=False)
    loss = trajectory_loss(world, obs(), actions(), obs(HORIZON), VALID, ALL)
    expected = nn.functional.mse_loss(world(obs(), actions()), obs(HORIZON))
    torch.testing.assert_close(loss, expected)


def spring(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """x' = v, v' = a - x for 2 agents over 7 steps: s_0, actions, s_1 to s_h."""
    state = torch.randn(64, 2, 2, generator=generator)
    action = torch.randn(64, 7, 2, 1, generator=generator)
    states, now = [], state
    for t in range(7):
        position, velocity = now.unbind(-1)
        velocity = velocity + 0.2 * (action[:, t, :, 0] - position)
        now = torch.stack([position + 0.2 * velocity, velocity], dim=-1)
        states.append(now)
    return state, action, torch.stack(states, dim=1)


@pytest.mark.parametrize("predict", ["change", "absolute"])
def test_it_learns_a_spring(predict: str) -> None:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    world = ActionWorldModel(ActionWorldModelConfig(predict=predict, max_horizon=7), 2, 2, 1)
    valid, entries = torch.ones(64, 7, dtype=torch.bool), torch.ones(2, dtype=torch.bool)
    state, _, targets = spring(generator)
    world.set_statistics(state, targets, valid)

    def loss(data: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        return trajectory_loss(world, *data, valid, entries)

    held_out = spring(generator)
    before = loss(held_out).item()
    optimiser = torch.optim.Adam(world.parameters(), lr=2e-3)
    for _ in range(32):
        optimiser.zero_grad()
        loss(spring(generator)).backward()
        optimiser.step()
    assert loss(held_out).item() < before / 10


def test_gradients_are_those_of_finite_differences() -> None:
    world = model().double().requires_grad_(False)
    start, action = obs()[:1, :2].double(), actions(2)[:1, :, :2].double()
    assert gradcheck(world, (start.requires_grad_(), action.requires_grad_()))

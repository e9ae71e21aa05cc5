"""Cart-pole swing-up obeys mechanics and the SHAC paper's definitions (arXiv:2204.07137, A.3.1)."""

import math

import pytest
import torch

from diffsurrogate.wrappers.builtin.cartpole import (
    CartPolePhysics,
    CartPoleSwingUp,
    cart_pole_acceleration,
    upright_angle,
)

FREE = CartPolePhysics(damping=0.0, track_stiffness=0.0)


def state_of(cart, cart_speed, angle, pole_speed, dtype=torch.float32):
    values = {"cart": cart, "cart_speed": cart_speed, "angle": angle, "pole_speed": pole_speed}
    return {k: torch.as_tensor(v, dtype=dtype).reshape(-1) for k, v in values.items()}


def energy(cart, cart_speed, angle, pole_speed, p=FREE):
    """Kinetic and potential, from the velocity of the pole's centre."""
    x_speed = cart_speed + p.pole_centre * torch.cos(angle) * pole_speed
    y_speed = -p.pole_centre * torch.sin(angle) * pole_speed
    kinetic = (
        p.pole_mass * (x_speed**2 + y_speed**2)
        + (p.cart_mass + p.rotor_inertia) * cart_speed**2
        + (p.pole_inertia + p.rotor_inertia) * pole_speed**2
    ) / 2
    potential = p.pole_mass * p.gravity * p.pole_centre * torch.cos(angle)
    return kinetic, potential


def test_acceleration_satisfies_euler_lagrange():
    """d/dt dL/dq' - dL/dq equals force, damping and spring, with L differentiated by autograd."""
    generator = torch.Generator().manual_seed(0)
    q, v = 3 * torch.randn(2, 2, 1, generator=generator, dtype=torch.float64)  # (x, theta), speeds
    q[0] = 5.5  # 1.5 m beyond the track
    force = torch.tensor([700.0], dtype=torch.float64)
    p = CartPolePhysics()
    a = torch.stack(cart_pole_acceleration(q[0], v[0], q[1], v[1], force, p))

    def lagrangian(q, v):
        kinetic, potential = energy(q[0], v[0], q[1], v[1], p)
        return (kinetic - potential).sum()

    def gradient(q, v):
        return torch.autograd.grad(lagrangian(q, v), (q, v), create_graph=True)

    _, (_, rate) = torch.autograd.functional.jvp(gradient, (q, v), (v, a))
    got = rate - gradient(q.requires_grad_(), v.requires_grad_())[0]
    want = torch.stack([force - 1.0 * v[0] - 100.0 * 1.5, -1.0 * v[1]])
    torch.testing.assert_close(got, want)


def test_free_cart_pole_keeps_its_horizontal_momentum():
    env = CartPoleSwingUp(num_envs=1, physics=FREE)
    s = state_of(0.1, 0.2, 0.5, -1.0, torch.float64)

    def momentum(s):
        return 52.51 * s["cart_speed"] + 1.25 * torch.cos(s["angle"]) * s["pole_speed"]

    start = momentum(s)
    for _ in range(240):
        s = env.advance(s, torch.zeros(1, 1, 1))
    assert momentum(s).item() == pytest.approx(start.item(), rel=0.02)


def test_gradient_of_a_step_equals_finite_differences_in_float64():
    env = CartPoleSwingUp(num_envs=3)
    s = state_of(
        [0.5, -4.5, 1.0], [0.3, 2.0, -1.0], [-3.0, 0.4, 1.5], [4.0, -6.0, 0.1], torch.float64
    )

    def step(action, *values):
        old = dict(zip(s, values, strict=True))
        new = env.advance(old, action)
        return env.reward(old, action, new), env.observe(new)

    action = torch.tensor([0.5, -0.9, 0.1], dtype=torch.float64).reshape(3, 1, 1)
    inputs = [x.requires_grad_() for x in (action, *s.values())]
    assert torch.autograd.gradcheck(step, inputs)


def test_reward_is_equation_13_at_the_next_state():
    env = CartPoleSwingUp(num_envs=1)
    s = state_of(3.0, 4.0, 1.0, 2.0)
    anything = state_of(9.0, 9.0, 9.0, 9.0)
    want = -(1.0**2) - 0.1 * 2.0**2 - 0.05 * 3.0**2 - 0.1 * 4.0**2  # -3.45
    assert env.reward(anything, torch.ones(1, 1, 1), s).item() == pytest.approx(want)


@pytest.mark.parametrize(
    ("angle", "normal"),
    [
        (0.5, 0.5),
        (0.5 - 2 * math.pi, 0.5),
        (-0.5 + 6 * math.pi, -0.5),
        (1.5 * math.pi, -math.pi / 2),
    ],
)
def test_angle_is_normalised_around_upright(angle, normal):
    given = torch.tensor(angle, requires_grad=True)
    upright_angle(given).backward()
    assert upright_angle(given).item() == pytest.approx(normal, abs=1e-5)
    assert given.grad == 1


def test_observation_is_table_6_in_its_order():
    s = state_of(3.0, 4.0, math.pi / 6, 2.0)
    want = torch.tensor([[[3.0, 4.0, 0.5, math.sqrt(3) / 2, 2.0]]])
    torch.testing.assert_close(CartPoleSwingUp(num_envs=1).observe(s), want)


def test_hanging_still_for_an_episode_returns_minus_240_pi_squared():
    env = CartPoleSwingUp(num_envs=1)
    env.reset()
    state = env.state()
    state["simulator"]["state"] = state_of(0.0, 0.0, -math.pi, 0.0)
    env.set_state(state)
    window = env.rollout(lambda obs: torch.zeros(1, 1, 1), 240)
    assert window.reward.sum().item() == pytest.approx(-240 * math.pi**2, rel=1e-4)
    assert window.truncated.flatten().tolist() == [False] * 239 + [True]
    assert not window.terminated.any()


def test_start_is_uniform_around_hanging():
    env = CartPoleSwingUp(num_envs=4096)
    env.reset(seed=0)
    centres = {"cart": 0.0, "cart_speed": 0.0, "angle": -math.pi, "pole_speed": 0.0}
    halves = {"cart": math.pi / 2, "cart_speed": 0.25, "angle": math.pi / 2, "pole_speed": 0.25}
    for name, value in env._state.items():
        offset = (value - centres[name]) / halves[name]
        assert offset.abs().max() == pytest.approx(1, abs=0.01)
        assert offset.mean() == pytest.approx(0, abs=0.05)
        assert offset.std() == pytest.approx(1 / math.sqrt(3), abs=0.02)


def test_action_box_is_one_number_in_minus_one_to_one():
    env = CartPoleSwingUp(num_envs=7)
    assert env.single_action_space.shape == (1, 1)
    assert (env.action_low.item(), env.action_high.item()) == (-1, 1)
    assert env.max_steps == 240
    assert env.max_return() is None


def test_balancing_by_hand_beats_hanging():
    """A pole started upright is held there by linear feedback, so the action's sign is right."""
    env = CartPoleSwingUp(num_envs=1)
    env.reset()
    state = env.state()
    state["simulator"]["state"] = state_of(0.0, 0.0, 0.1, 0.0)
    state["current_obs"] = env.observe(state["simulator"]["state"])
    env.set_state(state)

    def feedback(obs):
        x, x_speed, sin, _, pole_speed = obs.unbind(-1)
        return (0.05 * x + 0.15 * x_speed + 2.0 * sin + 0.5 * pole_speed).unsqueeze(-1)

    assert env.rollout(feedback, 240).reward.sum().item() > -20

"""Cart-pole swing-up of the SHAC paper (arXiv:2204.07137, A.3.1), as closed-form torch dynamics."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from diffsurrogate.envs.env import MultiAgentVectorEnv
from diffsurrogate.envs.torch_env import TorchEnv, TorchState
from diffsurrogate.wrappers.external.ids import make_by_id

STEP_SECONDS = 1 / 60
SUBSTEPS = 4
FORCE = 1000.0
"""Newtons at action 1."""


@dataclass(frozen=True, kw_only=True)
class CartPolePhysics:
    """What is simulated; the defaults are the authors' model, public in NVlabs/DiffRL.

    There the masses follow from the boxes' volumes at 1000 kg/m³ (the `<inertial>` entries of the
    URDF file are not read), and both joints have damping and some rotor inertia.
    """

    cart_mass: float = 50.0
    """kg: 0.5 x 0.5 x 0.2 m."""
    pole_mass: float = 2.5
    """kg: 0.05 x 0.05 x 1 m."""
    pole_centre: float = 0.5
    """m from the hinge to the pole's centre of mass."""
    pole_inertia: float = 2.5 * (1.0**2 + 0.05**2) / 12
    """kg m², about the centre of mass."""
    rotor_inertia: float = 0.01
    """kg of the slider and kg m² of the hinge, on top."""
    damping: float = 1.0
    """N s/m of the slider and N m s of the hinge."""
    track: float = 4.0
    """m: beyond ± this a spring pushes the cart back."""
    track_stiffness: float = 100.0
    """N/m of that spring."""
    gravity: float = 9.81
    """m/s²."""


def cart_pole_acceleration(
    cart: Float[Tensor, " env"],
    cart_speed: Float[Tensor, " env"],
    angle: Float[Tensor, " env"],
    pole_speed: Float[Tensor, " env"],
    force: Float[Tensor, " env"],
    physics: CartPolePhysics,
) -> tuple[Float[Tensor, " env"], Float[Tensor, " env"]]:
    r"""Return $(\ddot x, \ddot\theta)$, with $\theta = 0$ upright and leaning to +x if positive.

    Lagrange's equations of a pole of mass m, centre l and inertia I on a cart of mass M:

    $(M + m)\,\ddot x + m l \cos\theta\,\ddot\theta = F - d\dot x + m l \sin\theta\,\dot\theta^2$

    $m l \cos\theta\,\ddot x + (I + m l^2)\,\ddot\theta = m g l \sin\theta - d\dot\theta$
    """
    p = physics
    lever = p.pole_mass * p.pole_centre
    mass = p.cart_mass + p.pole_mass + p.rotor_inertia
    inertia = p.pole_inertia + lever * p.pole_centre + p.rotor_inertia
    sin, coupling = lever * torch.sin(angle), lever * torch.cos(angle)
    beyond = cart - cart.clamp(-p.track, p.track)
    push = force - p.damping * cart_speed - p.track_stiffness * beyond + sin * pole_speed.square()
    torque = p.gravity * sin - p.damping * pole_speed
    determinant = mass * inertia - coupling.square()
    return (
        (inertia * push - coupling * torque) / determinant,
        (mass * torque - coupling * push) / determinant,
    )


def upright_angle(angle: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return the same direction in [-pi, pi], 0 upright; the gradient is 1 everywhere."""
    return torch.remainder(angle + math.pi, 2 * math.pi) - math.pi


class CartPoleSwingUp(TorchEnv):
    """Swing a hanging pole up by pushing its cart, and keep it there; no early termination.

    Observation (Table 6): x, x', sin θ, cos θ, θ' (m, m/s, rad/s). Action: force / 1000 N.
    Reward (eq. 13): -θ² - 0.1 θ'² - 0.05 x² - 0.1 x'², after the step. Hanging still for 240 steps
    returns -240 π² = -2369; the authors' trained policies about -500.

    Start: hanging, plus uniform noise of ±π/2 on x and θ and of ±0.25 on both speeds. Time step
    1/60 s in 4 substeps of semi-implicit Euler. One difference from the authors' configuration:
    they refresh the mass matrix once per step, here it is exact in every substep.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012
        "autoreset_mode": AutoresetMode.SAME_STEP,
        "render_modes": ["rgb_array"],
        "render_fps": 60,
    }
    render_mode = "rgb_array"

    def __init__(
        self,
        *,
        num_envs: int = 64,
        seed: int = 0,
        device: torch.device | str = "cpu",
        differentiable: bool = False,
        max_steps: int | None = 240,
        physics: CartPolePhysics | None = None,
    ) -> None:
        """Make the env.

        Args:
            num_envs: copies that step together.
            seed: of the start states.
            device: where every tensor lives.
            differentiable: keep the graph of dynamics and reward.
            max_steps: steps after which an episode is truncated; the paper's 240.
            physics: masses, lengths and forces; None for the paper's.
        """
        super().__init__(
            num_envs=num_envs,
            agents=["cart"],
            obs_dim=5,
            act_dim=1,
            seed=seed,
            device=device,
            differentiable=differentiable,
            max_steps=max_steps,
        )
        self.physics = CartPolePhysics() if physics is None else physics

    def spawn(self, count: int, generator: torch.Generator) -> TorchState:
        """Hang the poles, with noise; every entry is (env,)."""
        noise = 2 * torch.rand(4, count, generator=generator, device=self.device) - 1
        return {
            "cart": math.pi / 2 * noise[0],
            "cart_speed": 0.25 * noise[1],
            "angle": math.pi / 2 * noise[2] - math.pi,
            "pole_speed": 0.25 * noise[3],
        }

    def observe(self, state: TorchState) -> Tensor:
        """Return x, x', sin θ, cos θ, θ': (env, 1, 5)."""
        angle = state["angle"]
        features = [
            state["cart"],
            state["cart_speed"],
            torch.sin(angle),
            torch.cos(angle),
            state["pole_speed"],
        ]
        return torch.stack(features, dim=-1).unsqueeze(1)

    def advance(self, state: TorchState, action: Tensor) -> TorchState:
        """Take 4 substeps of semi-implicit Euler under a constant force."""
        cart, cart_speed = state["cart"], state["cart_speed"]
        angle, pole_speed = state["angle"], state["pole_speed"]
        force = FORCE * action[:, 0, 0]
        seconds = STEP_SECONDS / SUBSTEPS
        for _ in range(SUBSTEPS):
            cart_acceleration, pole_acceleration = cart_pole_acceleration(
                cart, cart_speed, angle, pole_speed, force, self.physics
            )
            cart_speed = cart_speed + seconds * cart_acceleration
            pole_speed = pole_speed + seconds * pole_acceleration
            cart = cart + seconds * cart_speed
            angle = angle + seconds * pole_speed
        return {"cart": cart, "cart_speed": cart_speed, "angle": angle, "pole_speed": pole_speed}

    def reward(self, state: TorchState, action: Tensor, next_state: TorchState) -> Tensor:
        """Return eq. 13 at the state the step led to: (env, 1)."""
        cost = (
            upright_angle(next_state["angle"]).square()
            + 0.1 * next_state["pole_speed"].square()
            + 0.05 * next_state["cart"].square()
            + 0.1 * next_state["cart_speed"].square()
        )
        return -cost.unsqueeze(1)

    def render(self, env_indices: Iterable[int] | None = None) -> tuple[NDArray[np.uint8], ...]:
        """Draw the envs as they stand, all or some: a (160, 500, 3) uint8 frame each.

        Raises:
            UsageError: the env was not reset.
        """
        _ = self.current_obs
        indices = range(self.num_envs) if env_indices is None else env_indices
        cart, angle = self._state["cart"].tolist(), self._state["angle"].tolist()
        return tuple(draw_cart_pole(cart[i], angle[i], self.physics.track) for i in indices)


def draw_cart_pole(cart: float, angle: float, track: float) -> NDArray[np.uint8]:
    """Return a (160, 500, 3) picture, 50 pixels per metre, of a cart on its track."""
    fine = 2  # drawn twice as large, then shrunk: smooth edges
    scale, width, height = 50 * fine, 500 * fine, 160 * fine
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    ground, middle = 0.55 * height, 0.5 * width
    left, right = middle - track * scale, middle + track * scale
    draw.line([(left, ground), (right, ground)], fill="#999999", width=2 * fine)
    for end in (left, right):
        draw.line(
            [(end, ground - 6 * fine), (end, ground + 6 * fine)], fill="#999999", width=2 * fine
        )
    x = middle + cart * scale
    box = [x - 0.25 * scale, ground - 0.1 * scale, x + 0.25 * scale, ground + 0.1 * scale]
    draw.rectangle(box, fill="#1f4e79")
    tip = (x + scale * math.sin(angle), ground - scale * math.cos(angle))
    draw.line([(x, ground), tip], fill="#d9822b", width=4 * fine)
    return np.asarray(image.resize((width // fine, height // fine), Image.Resampling.BOX))


ENVS: dict[str, type[CartPoleSwingUp]] = {"cartpole-swingup": CartPoleSwingUp}


def ids() -> list[str]:
    """Return the names of the envs."""
    return list(ENVS)


def make(name: str, **options: Any) -> MultiAgentVectorEnv:
    """Make `diffsurrogate/<name>`.

    Raises:
        UsageError: there is no such env, or it does not take an option.
    """
    return make_by_id("diffsurrogate", ENVS, name, options)

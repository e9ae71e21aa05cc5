"""Gymnasium's robots as MuJoCo models that MJX can differentiate, and one control step of them.

MuJoCo and MJX are imported here only; install them as the extra `mjx`.
"""

import contextlib
import functools
import io
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium

from diffsurrogate.config import require_whole
from diffsurrogate.errors import UsageError
from diffsurrogate.wrappers.jax.library import jax
from diffsurrogate.wrappers.mjx.solver import constrained_acceleration

try:
    with contextlib.redirect_stdout(io.StringIO()):  # MJX prints that it does without Warp
        import mujoco
        from mujoco import mjx
except ImportError as error:
    raise UsageError(
        'ids mjx/... need MuJoCo MJX, an optional extra: pip install "diffsurrogate[mjx]" '
        f"({error})"
    ) from error

ASSETS = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets"
STEP_SECONDS = 1 / 60
"""Of one control step, as in the paper."""
_DEFAULT_SECONDS = 0.02
"""MuJoCo's time constant of contacts, which Gymnasium's robots have too."""

_RIGID = (0.99, 0.999, 1e-4)
_FASTEST = 3.0
"""Speed at which a muscle has no force left, in MuJoCo's optimal lengths per second: 10 of its
joint's ranges. At MuJoCo's own 1.5, thighs shake at 5 substeps when all muscles pull."""
_SMOOTHING = 0.1
"""Excess of excitation over activation, across which a muscle's time constant of rising replaces
that of falling. At MuJoCo's own 0, MJX's gradient of activations is NaN."""


@dataclass(frozen=True, kw_only=True)
class Contact:
    """How contacts with the floor respond; the robot's parts pass through each other."""

    stiffness: float = 1.0
    """Spring constant of contacts, as a multiple of the robot file's: its time constant (`solref`)
    is divided by the square root, so that the damping ratio stays. MuJoCo allows no time constant
    below two substeps."""
    rigid: bool = False
    """MuJoCo's impedance (`solimp`) is .99 at first touch and .999 at a depth of .1 mm, instead of
    the robot file's; MuJoCo's own default is .9, and .95 at 1 mm."""

    def check(self, substeps: int) -> None:
        """Refuse what the substeps cannot follow.

        Raises:
            UsageError: the stiffness is not positive, or its time constant is below two substeps.
        """
        if not 0 < self.stiffness < math.inf:
            raise UsageError(f"stiffness is {self.stiffness}; a finite number above 0 is needed")
        seconds, least = _DEFAULT_SECONDS / math.sqrt(self.stiffness), 2 * STEP_SECONDS / substeps
        if seconds < least * (1 - 1e-6):
            needed = math.ceil(2 * STEP_SECONDS / seconds - 1e-6)
            most = (_DEFAULT_SECONDS / least) ** 2
            raise UsageError(
                f"stiffness={self.stiffness:g} gives contacts a time constant of {seconds:.2g} s, "
                f"below two of the {substeps} substeps; give substeps={needed}, or a stiffness of "
                f"at most {most:.3g}"
            )


def load(file: str, substeps: int, contact: Contact, *, muscles: bool = False) -> Any:
    """Return a `mujoco.MjModel` of one of Gymnasium's robot files, changed for MJX.

    Euler's method with explicit joint damping, contacts with the floor only, and two muscles for
    each motor if asked for.

    Raises:
        UsageError: the substeps or the contact are out of range.
    """
    require_whole("substeps", substeps, low=1)
    contact.check(substeps)
    spec = mujoco.MjSpec.from_file(str(ASSETS / file))
    spec.option.timestep = STEP_SECONDS / substeps
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_EULER
    spec.option.disableflags |= mujoco.mjtDisableBit.mjDSBL_EULERDAMP
    spec.option.solver = mujoco.mjtSolver.mjSOL_NEWTON  # MJX has no PGS, which Humanoid names
    for geom in spec.geoms:
        of_floor = geom.parent.name == "world"
        geom.contype, geom.conaffinity = (1, 0) if of_floor else (0, 1)
        geom.solref[0] /= math.sqrt(contact.stiffness)
        if contact.rigid:
            geom.solimp[:3] = _RIGID
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "compiler attribute .* deprecated")  # by Gymnasium's file
        if muscles:
            _replace_motors(spec)
        return spec.compile()


def _replace_motors(spec: Any) -> None:
    """Put two muscles in the place of each motor: one lowers the joint's angle, one raises it.

    A muscle's greatest pull is the motor's greatest torque, and the joint's range is its length's.
    Its activation, in [0, 1], follows its excitation within 5 to 80 ms.
    """
    model = spec.compile()  # has ranges in radians
    for motor in spec.actuators:
        torque = motor.ctrlrange[1] * motor.gear[0]
        lowest, highest = model.joint(motor.target).range
        for name, gear, lengths in (
            ("lower", 1, (lowest, highest)),
            ("raise", -1, (-highest, -lowest)),
        ):
            muscle = spec.add_actuator(name=f"{motor.name}_{name}", target=motor.target)
            muscle.trntype = motor.trntype
            muscle.set_to_muscle(force=torque, vmax=_FASTEST, tausmooth=_SMOOTHING)
            muscle.gear[0], muscle.lengthrange = gear, lengths
            muscle.ctrllimited = muscle.actlimited = True
            muscle.ctrlrange = muscle.actrange = 0, 1
        spec.delete(motor)


def touching(model: Any, poses: Any) -> list[bool]:
    """Return whether a contact is active at each of the `poses` (any, qpos), as MuJoCo finds it."""
    data, found = mujoco.MjData(model), []
    for pose in poses:
        data.qpos[:] = pose
        mujoco.mj_fwdPosition(model, data)
        found.append(bool((data.contact.exclude == 0).any()))
    return found


def to_mjx(model: Any) -> Any:
    """Return MJX's model, a pytree of arrays."""
    return mjx.put_model(model)


class Painter:
    """Draws a robot, from the camera that follows it."""

    def __init__(self, model: Any) -> None:
        """Prepare nothing: OpenGL is loaded at the first picture."""
        self._model = model
        self._data: Any = None
        self._renderer: Any = None

    def picture(self, qpos: Any) -> Any:
        """Return a frame `(240, 320, 3)` uint8 of the robot at `qpos`."""
        if self._renderer is None:
            self._renderer = mujoco.Renderer(self._model, height=240, width=320)
            self._data = mujoco.MjData(self._model)
        self._data.qpos[:] = qpos
        mujoco.mj_forward(self._model, self._data)
        self._renderer.update_scene(self._data, camera=0 if self._model.ncam else -1)
        return self._renderer.render()

    def close(self) -> None:
        """Free what OpenGL holds."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None


def solve_contacts(model: Any, data: Any) -> Any:
    """Return `data` with accelerations and constraint forces, in place of `mjx.solve`.

    MJX's solver differentiates one iteration and its line search only, which has not arrived in a
    tenth of the states with contacts.
    """
    inner = data._impl
    problem = mjx.full_m(model, data), data.qfrc_smooth, inner.efc_J, inner.efc_D, inner.efc_aref
    acceleration, push = constrained_acceleration(*problem, data.qacc_warmstart)
    return data.replace(qacc=acceleration, qfrc_constraint=push)


@functools.cache
def physics(file: str, substeps: int, muscles: bool) -> Callable[..., dict[str, Any]]:
    """Return a function that simulates one control step of a robot.

    Of the state before it, controls and MJX's model, to the state after it: `qpos`, `qvel`,
    `qacc_warmstart` (the solver's first guess) and, of muscles, their activations `act`.
    """
    blank = mjx.make_data(load(file, substeps, Contact(), muscles=muscles))

    def simulate(before: dict[str, Any], ctrl: Any, model: Any) -> dict[str, Any]:
        def substep(state: dict[str, Any], _: None) -> tuple[dict[str, Any], None]:
            data = blank.replace(**state, ctrl=ctrl)
            for part in (
                mjx.fwd_position,
                mjx.fwd_velocity,
                mjx.fwd_actuation,
                mjx.fwd_acceleration,
                solve_contacts,
                mjx.euler,
            ):
                data = part(model, data)
            return {name: getattr(data, name) for name in state}, None

        # a loop compiles in a tenth of the time that as many copies of its body take
        return jax.lax.scan(substep, before, None, length=substeps)[0]

    return simulate

"""MuJoCo's muscles in place of a robot's motors: two of each joint, which pull it opposite ways.

A muscle follows its excitation within hundredths of a second; the activation it has reached, in
[0, 1], is part of the state. Its pull is the motor's greatest torque times activation, times what
its length and speed leave of it. How far it can be stretched, its joint's range gives.
"""

from typing import Any

_FASTEST = 3.0
"""Speed without force, in MuJoCo's optimal lengths per second: 10 of the joint's ranges. At
MuJoCo's own 1.5, thighs shake at 5 substeps when all muscles pull."""
_SMOOTHING = 0.1
"""Excess of excitation over activation, across which the time constant of rising replaces that of
falling. At MuJoCo's own 0, MJX's gradient of activations is NaN."""


def replace_motors(spec: Any) -> None:
    """Replace each motor of a `mujoco.MjSpec`, whose joint has a range, by two muscles.

    The first pulls the joint to smaller angles, the second to larger ones.
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

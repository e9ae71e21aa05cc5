#!/usr/bin/env bash
# After MuJoCo's first warning, the rest of a rollout is one state repeated.
#
# mujoco 4.0.0: balls that touch each other, in a model whose `<size memory>` is too small for all of their contacts.
# `mj_step` warns, leaves contacts out and goes on, for as long as one steps. `mujoco.rollout` ends at the first such step:
# all later rows of states are the same numbers, clock included, with velocities of balls that move. There is no flag, no
# error and no NaN. With enough memory the rollout equals a loop over `mj_step` to the last bit. Every kind of warning
# does this, also one that MuJoCo mends by itself (an action that is not a number counts as 0 for that step). Returns that are
# computed from such rows pay for standing still. A good guess would be what the loop gives. That the clock stands tells.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "mujoco==4.0.0" "numpy==2.4.6"
cat >"$folder/check.py" <<'PYTHON'
import mujoco
import numpy as np
from mujoco import rollout

STEPS = 60
FULL = mujoco.mjtState.mjSTATE_FULLPHYSICS
BALL = '<body pos="{} {} .3"><freejoint/><geom type="sphere" size=".1"/></body>'
BALLS = "".join(BALL.format(0.15 * (i % 6), 0.15 * (i // 6)) for i in range(36))
FLOOR = '<geom type="plane" size="5 5 1"/>'


def both(memory):
    """Return the states (step, state) of a rollout and of a loop, and how many steps of the loop warned."""
    model = mujoco.MjModel.from_xml_string(
        f'<mujoco><size memory="{memory}"/><worldbody>{FLOOR}{BALLS}</worldbody></mujoco>'
    )
    data, rows = mujoco.MjData(model), np.empty((STEPS, mujoco.mj_stateSize(model, FULL)))
    start = np.empty(rows.shape[1])
    mujoco.mj_getState(model, data, start, FULL)
    for row in rows:
        mujoco.mj_step(model, data)
        mujoco.mj_getState(model, data, row, FULL)
    states, _ = rollout.rollout(model, mujoco.MjData(model), start[None], np.zeros((1, STEPS, 0)))
    return states[0], rows, sum(int(warning.number) for warning in data.warning)


print("mujoco", mujoco.__version__)
for memory, warns in (("10M", False), ("60K", True)):
    rolled, stepped, warnings = both(memory)
    print(f"memory {memory}: {warnings} warnings; clock of the rollout, of the loop:", rolled[-1, 0], stepped[-1, 0])
    assert (warnings > 0) == warns and np.isfinite(rolled).all()
    if not warns:
        assert np.array_equal(rolled, stepped)
    else:
        assert (rolled == rolled[0]).all() and abs(rolled[0, 1 + 36 * 7 :]).max() > 0
        assert stepped[-1, 0] > 0.1
PYTHON
cd "$folder"
"$folder/venv/bin/python" "$folder/check.py"

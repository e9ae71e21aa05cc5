#!/usr/bin/env bash
# TorchRL's VecNormV2 divides by the mean instead of the standard deviation for tens of thousands of steps.
#
# torchrl 0.11.1, torch 2.13.0: two sensors have a noise of 1, around 0 and around 100. Normalised by `VecNormV2`
# as it is by default, the first has a standard deviation of 1 in steps 2000 to 3000, the second one of .01: what it
# has to tell is a hundredth of what the first tells. The older `VecNorm`, which it is to replace, gives 1 for both, and
# so does `VecNormV2(decay=1.0)`. Moving averages that start at 0 are too small at first, by 1 - .9999^t after t
# steps. The square of the mean is taken off before that is made good, the wrong one of the two, so that .9999^t times
# the squared mean is left in the variance: of the second sensor more than its own for 92,000 steps. Rewards that
# are far from 0 shrink in the same way. A good guess would be that a corrected average has no trace of its start.
# (envs/transforms/vecnorm.py, `_norm`: `var - loc.pow(2)` before both are divided by `bias_correction`.)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "torch==2.13.0" "torchrl==0.11.1" \
  "tensordict==0.11.0" "gymnasium==1.4.0" "numpy==2.4.6"
cat >"$folder/check.py" <<'PYTHON'
from importlib.metadata import version

import gymnasium
import numpy as np
import torch
from torchrl.envs import GymWrapper, TransformedEnv, VecNorm, VecNormV2

print("torchrl", version("torchrl"), "torch", version("torch"))
MEANS, STEPS = np.array([0.0, 100.0]), 3000


class Sensors(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def seen(self):
        return self.np_random.normal(MEANS, 1.0).astype(np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.seen(), {}

    def step(self, action):
        return self.seen(), 0.0, False, False, {}


def spread(kind, **options):
    """Return the standard deviations of both sensors in the last 1000 steps."""
    norm = kind(in_keys=["observation"], out_keys=["normalised"], **options)
    env = TransformedEnv(GymWrapper(Sensors()), norm)
    env.set_seed(0)
    return env.rollout(STEPS)["next", "normalised"][-1000:].std(dim=0)


found = {
    "VecNormV2": spread(VecNormV2),
    "VecNormV2, decay .999": spread(VecNormV2, decay=0.999),
    "VecNormV2, decay 1": spread(VecNormV2, decay=1.0),
    "VecNorm": spread(VecNorm, new_api=False),
}
for name, deviations in found.items():
    print(name, "sensors around 0 and 100:", [round(deviation, 4) for deviation in deviations.tolist()])
left = 0.9999 ** (STEPS - 500) * MEANS**2  # in the middle of the last 1000 steps
expected = torch.tensor(1 / np.sqrt(1 + left), dtype=torch.float32)
assert torch.allclose(found["VecNormV2"], expected, rtol=0.06), expected
assert found["VecNormV2"][1] < 0.012 and found["VecNormV2, decay .999"][1] < 0.1
for name in ("VecNormV2, decay 1", "VecNorm"):
    assert torch.allclose(found[name], torch.ones(2), atol=0.06)
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/check.py"

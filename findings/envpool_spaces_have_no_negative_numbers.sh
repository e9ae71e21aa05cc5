#!/usr/bin/env bash
# EnvPool's observation spaces say that observations are positive; they are not.
#
# envpool 1.2.5: where EnvPool has no bounds of its own, spaces begin at the smallest positive number of their
# type (1.1754944e-38, of float64 2.2250738585072014e-308) instead of the lowest, as if by C++'s
# `numeric_limits<T>::min()`: seen in LunarLander-v3 and in DeepMind Control's CheetahRun-v1. So
# `observation_space.contains(obs)` is False for the first observation, and whatever clips to the space loses
# every negative number. HalfCheetah-v5 has -inf and inf. A good guess would be the bounds of Gymnasium's
# LunarLander-v3, which begin at -2.5 and below.
# Also seen: `reset(seed=...)` is ignored, with a warning, and `reset(options={"reset_mask": mask})`
# returns the rows of the reset envs only, where Gymnasium's vector envs return all.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "envpool==1.2.5" "gymnasium==1.4.0" \
  "numpy==2.4.6"
cat >"$folder/check.py" <<'PYTHON'
import warnings
from importlib.metadata import version

import envpool
import numpy as np

warnings.simplefilter("ignore")
print("envpool", version("envpool"))


def pool(name):
    return envpool.make(name, env_type="gymnasium", num_envs=3, seed=0)


for name, key in (("LunarLander-v3", None), ("CheetahRun-v1", "velocity"), ("HalfCheetah-v5", None)):
    env = pool(name)
    obs, _ = env.reset()
    space = env.observation_space if key is None else env.observation_space[key]
    rows = obs if key is None else obs[key]
    lowest = float(space.low.min())
    inside = all(space.contains(row) for row in rows)
    print(name, "low", lowest, "observed", float(rows.min()), "contained", inside)
    assert rows.min() < 0
    assert inside == (name == "HalfCheetah-v5")
    assert inside or lowest == np.finfo(space.dtype).tiny
env = pool("CartPole-v1")
first = env.reset(seed=5)[0]
again = env.reset(seed=5)[0]
some = env.reset(options={"reset_mask": np.array([True, False, True])})[0]
print("same seed, same observations:", np.array_equal(first, again), "masked reset:", some.shape)
assert not np.array_equal(first, again) and some.shape == (2, 4)
PYTHON
"$folder/venv/bin/python" "$folder/check.py"

#!/usr/bin/env bash
# VMAS's vectorised Gymnasium wrapper is not a vectorised Gymnasium env.
#
# vmas 1.5.2: `make_env(..., wrapper="gymnasium_vec")` steps a batch of envs, takes and returns arrays
# with a leading env axis, and has `num_envs` and `single_action_space`. A good guess would be that it
# is a `gymnasium.vector.VectorEnv`, as every other batched env of that library. It is a
# `gymnasium.Env`: isinstance takes it for a single env, whose one action is that of all envs. Its
# `unwrapped`, which Gymnasium promises to be a `gymnasium.Env`, is VMAS's own class instead.
# (simulator/environment/gym/gymnasium_vec.py; it needs shimmy installed.)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
	"torch==2.13.0" "vmas==1.5.2" "shimmy==2.0.1" "gymnasium==1.4.0"
cat >"$folder/check.py" <<'PYTHON'
from importlib.metadata import version

import gymnasium
import torch
import vmas

torch.manual_seed(0)
env = vmas.make_env("transport", num_envs=3, seed=0, wrapper="gymnasium_vec", terminated_truncated=True)
obs, _ = env.reset(seed=0)
found = {
    "is a VectorEnv": isinstance(env, gymnasium.vector.VectorEnv),
    "is an Env": isinstance(env, gymnasium.Env),
    "unwrapped is an Env": isinstance(env.unwrapped, gymnasium.Env),
    "has num_envs": getattr(env, "num_envs", getattr(env.unwrapped, "num_envs", None)),
    "has single_action_space": hasattr(env, "single_action_space"),
    "rows of an agent's observation": len(obs[0]),
}
print("vmas", version("vmas"), "gymnasium", version("gymnasium"), found)
expected = {
    "is a VectorEnv": False,
    "is an Env": True,
    "unwrapped is an Env": False,
    "has num_envs": 3,
    "has single_action_space": True,
    "rows of an agent's observation": 3,
}
raise SystemExit(found != expected)
PYTHON
"$folder/venv/bin/python" "$folder/check.py"

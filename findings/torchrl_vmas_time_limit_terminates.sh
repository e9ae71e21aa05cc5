#!/usr/bin/env bash
# TorchRL's VMAS env says that an episode which only ran out of time has terminated.
#
# VMAS keeps two kinds of end apart if it is asked to (terminated_truncated=True): at its time limit,
# max_steps, an episode is truncated and not terminated. TorchRL's VmasEnv does not ask: at the limit
# it gives done and terminated, and has no truncated at all. Its estimators of values and advantages
# take a terminated state to be worth 0, so that policies learn as if the world ended at the limit,
# and BenchMARL 1.5.2, which makes its VMAS envs by this class, inherits it. A good guess is that max_steps, a time limit
# by name, truncates, as TorchRL's own StepCounter and its Gymnasium envs do.
#
# Found with torchrl 0.11.1, vmas 1.5.2, torch 2.13.0. Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "torch==2.13.0" "torchrl==0.11.1" "vmas==1.5.2" "gymnasium==1.2.3"

cat >"$folder/check.py" <<'PYTHON'
from importlib.metadata import version

import torch
import vmas
from torchrl.envs import GymEnv, StepCounter, TransformedEnv
from torchrl.envs.libs.vmas import VmasEnv

print(*(f"{name} {version(name)}" for name in ("torchrl", "vmas", "torch")))

raw = vmas.make_env("dispersion", num_envs=2, n_agents=2, max_steps=5, terminated_truncated=True)
for _ in range(5):
    still = [torch.zeros(2, 2) for _ in raw.agents]
    _, _, terminated, truncated, _ = raw.step(still)
print("VMAS itself: terminated", terminated.tolist(), "truncated", truncated.tolist())
assert truncated.all() and not terminated.any()

env = VmasEnv("dispersion", num_envs=2, n_agents=2, max_steps=5, seed=0)
last = env.rollout(5, break_when_any_done=False)["next"][:, -1]
names = sorted(name for name in last.keys() if isinstance(name, str))
print("VmasEnv: done", last["done"].flatten().tolist(), end=" ")
print("terminated", last["terminated"].flatten().tolist(), "keys", names)
assert last["done"].all() and last["terminated"].all() and "truncated" not in names

env = TransformedEnv(GymEnv("Pendulum-v1"), StepCounter(max_steps=5))
last = env.rollout(5)["next"][-1]
ends = {name: bool(last[name]) for name in ("done", "terminated", "truncated")}
print("StepCounter(5) around GymEnv:", ends)
assert ends == {"done": True, "terminated": False, "truncated": True}
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/check.py"

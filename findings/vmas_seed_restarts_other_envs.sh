#!/usr/bin/env bash
# Making one VMAS env with a seed sends every other env back to the start of that seed's stream.
#
# vmas 1.5.2, torch 2.13.0: all envs of a process, of whatever scenario, draw from one random stream, which is kept on
# the class. An env for training has seed 0; after some episodes another with seed 0 is made, as for an evaluation, and
# the next episodes of training are its first ones again. A reset of one env takes numbers from the others. `env.seed()`,
# which in Gym drew a new seed, means seed 0, and `torch.manual_seed` after the import of vmas does nothing to an
# env that is made without a seed. PyTorch's own global stream is left alone: a good guess would be that
# so are other envs, as in Gymnasium. (simulator/environment/environment.py, `local_seed` and `_seed`.)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "vmas==1.5.2" "torch==2.13.0" "numpy==2.4.6"
cat >"$folder/check.py" <<'PYTHON'
from importlib.metadata import version

import torch
import vmas


def make(scenario="balance", **seed):
    return vmas.make_env(scenario, num_envs=3, **seed)


def episode(env):
    """A number that tells initial states apart."""
    return round(sum(obs.double().sum().item() for obs in env.reset()), 3)


train = make(seed=0)
alone = [episode(train) for _ in range(4)]
train = make(seed=0)
beside = [episode(train), episode(train)]
make(seed=0)
beside += [episode(train), episode(train)]
print("vmas", version("vmas"), "seed 0, first states alone:", alone)
print("a second env is made with seed 0 after two episodes:", beside)
assert len(set(alone)) == 4 and beside == alone[:2] * 2

second = []
for between in (False, True):
    train, other = make(seed=0), make("navigation", seed=0)
    episode(train)
    if between:
        episode(other)
    second.append(episode(train))
print("second episode without and after a reset of another scenario:", second)
assert second[0] != second[1]

before = torch.get_rng_state()
train.seed()
assert torch.equal(before, torch.get_rng_state())
unseeded = episode(train)
train.seed(0)
assert unseeded == episode(train), "env.seed() is not seed 0"

first = []
for seed in (1, 1):
    torch.manual_seed(seed)
    first.append(episode(make()))
print("torch.manual_seed(1) before each env without a seed:", first)
assert first[0] != first[1]
PYTHON
"$folder/venv/bin/python" "$folder/check.py"

#!/usr/bin/env bash
# A policy of PPO or A2C that has learned cannot be copied, until it has predicted once.
#
# stable-baselines3 2.9.2, torch 2.13.0: `copy.deepcopy(model.policy)`, as for a target, an opponent pool or a
# moving average, works before `learn` and raises "Only Tensors created explicitly by the user (graph leaves)
# support the deepcopy protocol" after it. The policy keeps the distribution of its last minibatch
# (`policy.action_dist`), with the graph that the loss was differentiated through. SAC, whose actor keeps a
# distribution too, can be copied. One `model.predict(obs)` replaces the distribution by one without a graph,
# and PPO's copy works again, so that code which evaluates before it copies never meets this.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "stable-baselines3==2.9.2" \
  "torch==2.13.0" "gymnasium==1.4.0" "numpy==2.4.6"
cat >"$folder/check.py" <<'PYTHON'
import copy

import stable_baselines3
from stable_baselines3 import A2C, PPO, SAC


def copies(model):
    try:
        copy.deepcopy(model.policy)
    except RuntimeError as error:
        assert "graph leaves" in str(error), error
        return False
    return True


found = {}
for kind, options in ((PPO, {"n_steps": 64}), (A2C, {}), (SAC, {})):
    model = kind("MlpPolicy", "Pendulum-v1", **options)
    new = copies(model)
    model.learn(200)
    learned = copies(model)
    model.predict(model.get_env().reset())
    found[kind.__name__] = (new, learned, copies(model))
print("stable-baselines3", stable_baselines3.__version__, "new, learned, after a prediction:", found)
assert found == {"PPO": (True, False, True), "A2C": (True, False, True), "SAC": (True, True, True)}, found
PYTHON
"$folder/venv/bin/python" "$folder/check.py"

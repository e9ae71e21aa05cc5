#!/usr/bin/env bash
# rware and lbforaging tell their time limit as a termination, and Gymnasium does not know the limit.
#
# rware 2.0.0 and lbforaging 2.0.0, gymnasium 1.4.0: an episode in which nothing happens ends after 500 and 50
# steps with `terminated` True and `truncated` False, so that a learner takes the value of the last state
# for 0. The spec has no `max_episode_steps`. `gymnasium.make(id, max_episode_steps=200)` does not lengthen
# an episode of lbforaging, although its class has an option of that very name: `gymnasium.make` keeps it
# for its own `TimeLimit`, and the env ends at 50. A good guess would be a truncation, as Gymnasium has had
# since 0.26 and both libraries since 2.0.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "rware==2.0.0" "lbforaging==2.0.0" \
  "gymnasium==1.4.0" "numpy==2.4.6"
cat >"$folder/check.py" <<'PYTHON'
import warnings
from importlib.metadata import version

import gymnasium

warnings.simplefilter("ignore")
NOTHING = (0, 0)
WAREHOUSE = "rware:rware-tiny-2ag-v2"
FORAGING = "lbforaging:Foraging-8x8-2p-2f-coop-v3"


def end(env_id, **options):
    env = gymnasium.make(env_id, **options)
    env.reset(seed=0)
    for step in range(1, 1000):
        _, _, terminated, truncated, _ = env.step(NOTHING)
        if terminated or truncated:
            return step, bool(terminated), bool(truncated)


found = {
    "rware": end(WAREHOUSE),
    "lbforaging": end(FORAGING),
    "lbforaging, 200 asked for": end(FORAGING, max_episode_steps=200),
    "in the spec": [gymnasium.make(i).spec.max_episode_steps for i in (WAREHOUSE, FORAGING)],
}
print("rware", version("rware"), "lbforaging", version("lbforaging"), found)
expected = {
    "rware": (500, True, False),
    "lbforaging": (50, True, False),
    "lbforaging, 200 asked for": (50, True, False),
    "in the spec": [None, None],
}
raise SystemExit(found != expected)
PYTHON
"$folder/venv/bin/python" "$folder/check.py"

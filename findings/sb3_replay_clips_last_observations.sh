#!/usr/bin/env bash
# Under VecNormalize, SAC and TD3 remember the last observation of an episode clipped, and no other.
#
# stable-baselines3 2.9.2: the replay keeps raw observations, to normalise them by the statistics of the day on
# which they are drawn. But the last one of an episode reaches it normalised and clipped to 10 standard
# deviations (`clip_obs`), and is made raw again from that: what was beyond is cut off for good. A fall or a
# crash is just what statistics have not seen: they take in the observation after the reset in its place. Here
# the state runs 0, 1, 2 and ends at 1000, and the replay says 9 or so; 0, 1 and 2 are exact. Where a time
# limit ends the episode, the value that is bootstrapped from is that of a state that never was.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "stable-baselines3==2.9.2" \
  "torch==2.13.0" "gymnasium==1.4.0" "numpy==2.4.6"
cat >"$folder/check.py" <<'PYTHON'
import gymnasium
import numpy as np
import stable_baselines3
from stable_baselines3 import SAC, TD3
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

STATES = (0.0, 1.0, 2.0, 1000.0)


class Crash(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at = 0
        return self.seen(), {}

    def seen(self):
        return np.array([STATES[self.at]], np.float32)

    def step(self, action):
        self.at += 1
        return self.seen(), 0.0, False, self.at == 3, {}  # stopped by a time limit


for kind in (SAC, TD3):
    last = {}
    for normalised in (False, True):
        env = DummyVecEnv([Crash])
        model = kind("MlpPolicy", VecNormalize(env) if normalised else env, learning_starts=1000)
        replay = model.learn(60).replay_buffer
        others = set(replay.observations[:60].ravel().tolist())
        assert others == {0.0, 1.0, 2.0}, others
        last[normalised] = replay.next_observations[:60][replay.dones[:60] == 1].ravel()
    print("stable-baselines3", stable_baselines3.__version__, kind.__name__, "the last state is 1000;", end=" ")
    print("stored", last[False].max(), "and under VecNormalize", last[True].min(), "to", last[True].max())
    assert (last[False] == 1000).all()
    assert (last[True] < 20).all()
PYTHON
"$folder/venv/bin/python" "$folder/check.py"

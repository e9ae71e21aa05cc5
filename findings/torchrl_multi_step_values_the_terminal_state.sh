#!/usr/bin/env bash
# TorchRL's n-step returns add what the network says of a terminal state, for every step but the last of an episode.
#
# torchrl 0.11.1, tensordict 0.11.0, torch 2.13.0: `MultiStep`, and `MultiStepTransform` of a replay buffer, sum rewards
# and move the next observation up to n steps ahead, but not beyond the episode's end. The flags do not move with it:
# where the observation two or three steps ahead is terminal, `next` has it with `terminated` and `done` False, and
# losses bootstrap from it. Here an episode is four steps of reward 1, the values of a table begin at 10, the discount
# is .5, and DQN is fitted to such episodes. With n = 1 the four states come to 1.875, 1.75, 1.5 and 1, which is
# right. With n = 3 the two in the middle come to 3 and 4: they keep an eighth and a quarter of the terminal
# state's 10, which nothing ever corrects. `nonterminal`, which is written too, is True for them, and no loss of
# TorchRL reads it. A good guess would be that n changes how fast values are learned, and not which.
# (data/postprocs/postprocs.py, `_multi_step_func`: `exclude(*reward_keys, *done_keys)`.)
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
from torchrl.data import LazyTensorStorage, OneHot, ReplayBuffer
from torchrl.data.postprocs import MultiStep
from torchrl.envs import GymWrapper, MultiStepTransform
from torchrl.modules import QValueActor
from torchrl.objectives import DQNLoss

GAMMA = 0.5
print(*(f"{name} {version(name)}" for name in ("torchrl", "tensordict", "torch")))


class Walk(gymnasium.Env):
    """Four steps of reward 1, with one action; observations are one-hot."""

    observation_space = gymnasium.spaces.Box(0, 1, (5,), np.float32)
    action_space = gymnasium.spaces.Discrete(1)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at = 0
        return np.eye(5, dtype=np.float32)[0], {}

    def step(self, action):
        self.at += 1
        return np.eye(5, dtype=np.float32)[self.at], 1.0, self.at == 4, False, {}


def fit(data):
    """Return the values of the five states after 200 updates on all of the data."""
    table = torch.nn.Linear(5, 1, bias=False)
    torch.nn.init.constant_(table.weight, 10.0)
    actor = QValueActor(table, in_keys=["observation"], spec=OneHot(1))
    loss = DQNLoss(actor, action_space="one-hot", delay_value=False)
    loss.make_value_estimator(gamma=GAMMA)
    optimiser = torch.optim.SGD(loss.parameters(), lr=1.0)
    for _ in range(200):
        optimiser.zero_grad()
        loss(data.clone())["loss"].backward()
        optimiser.step()
    return [round(value, 3) for value in table(torch.eye(5)).flatten().tolist()]


torch.manual_seed(0)
rollout = GymWrapper(Walk()).rollout(400, break_when_any_done=False)
buffer = ReplayBuffer(storage=LazyTensorStorage(400), transform=MultiStepTransform(n_steps=3, gamma=GAMMA))
buffer.extend(rollout)
ahead = MultiStep(gamma=GAMMA, n_steps=3)(rollout.clone())
places = ahead["next", "observation"].argmax(-1)[:4].tolist()
print("after steps from 0, 1, 2, 3 the next place is", places, end=", ")
print("terminated", ahead["next", "terminated"][:4].flatten().tolist())
print("  over", ahead["steps_to_next_obs"][:4].tolist(), "steps, nonterminal", ahead["nonterminal"][:4].tolist())
assert places == [3, 4, 4, 4]
assert ahead["next", "terminated"][:4].flatten().tolist() == [False, False, False, True]
assert ahead["nonterminal"][:4].tolist() == [True, True, True, False]

values = {"n = 1": fit(rollout), "n = 3, MultiStep": fit(ahead[:396]), "n = 3, MultiStepTransform": fit(buffer[:])}
for name, of_states in values.items():
    print(name, "values", of_states)
right = [1.875, 1.75, 1.5, 1.0]
assert np.allclose(values["n = 1"][:4], right, atol=0.01)
for name in ("n = 3, MultiStep", "n = 3, MultiStepTransform"):
    found = np.array(values[name])
    assert np.allclose(found[:4], [1.875, 1.75 + 10 / 8, 1.5 + 10 / 4, 1.0], atol=0.01), found
    assert found[4] == 10
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/check.py"

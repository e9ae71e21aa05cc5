#!/usr/bin/env bash
# TorchRL's Q-networks of one-hot actions take all actions of a tie at once, and value the choice at their sum.
#
# torchrl 0.11.1, tensordict 0.11.0, torch 2.13.0: CartPole's actions are one-hot in TorchRL, and a network of which
# both outputs are 5, as one with a last layer of zeros can be, gives `QValueActor` the action [1, 1], which is not in
# the space of actions, with a value of 10. The env steps with it, and the replay keeps it. `DQNLoss` bootstraps from
# such sums: of a table that begins at 0, in a state whose two actions both pay 1 and lead back to it, values should
# come to 10 with a discount of .9, and pass 10^20 instead. With categorical actions, `categorical_action_encoding` of
# `GymEnv`, they come to 10. Ties are common in tables, behind dead ReLUs and in bfloat16: of random values around 100
# for six actions, every fourth state has one. A good guess would be argmax, the first of the best, as it is for
# categorical actions. (modules/tensordict_module/actors.py, `QValueModule._one_hot`: value == value.max().)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "torch==2.13.0" "torchrl==0.11.1" \
  "tensordict==0.11.0" "gymnasium==1.4.0" "numpy==2.4.6"
cat >"$folder/check.py" <<'PYTHON'
from importlib.metadata import version

import torch
from tensordict import TensorDict
from torchrl.data import Categorical, OneHot
from torchrl.envs import GymEnv
from torchrl.modules import QValueActor
from torchrl.objectives import DQNLoss

torch.manual_seed(0)
print(*(f"{name} {version(name)}" for name in ("torchrl", "tensordict", "torch")))


def table(inputs, actions, value):
    net = torch.nn.Linear(inputs, actions)
    torch.nn.init.zeros_(net.weight)
    torch.nn.init.constant_(net.bias, value)
    return net


for categorical in (False, True):
    env = GymEnv("CartPole-v1", categorical_action_encoding=categorical)
    policy = QValueActor(table(4, 2, 5.0), in_keys=["observation"], spec=env.action_spec)
    first = env.rollout(3, policy)[0]
    inside, worth = env.action_spec.is_in(first["action"]), first["chosen_action_value"].item()
    print(type(env.action_spec).__name__, "action", first["action"].tolist(), "in the space:", inside, "value", worth)
    assert (inside, worth) == ((True, 5.0) if categorical else (False, 10.0))


def learned(space, actions):
    """Return the values of two equal actions, which pay 1 and lead back to the same state."""
    rows = {"done": torch.zeros(2, 1, dtype=torch.bool), "terminated": torch.zeros(2, 1, dtype=torch.bool)}
    rows |= {"observation": torch.zeros(2, 1), "reward": torch.ones(2, 1)}
    data = TensorDict({"observation": torch.zeros(2, 1), "action": actions, "next": rows}, [2])
    net = table(1, 2, 0.0)
    loss = DQNLoss(QValueActor(net, in_keys=["observation"], spec=space), delay_value=False)
    loss.make_value_estimator(gamma=0.9)
    optimiser = torch.optim.SGD(net.parameters(), lr=0.5)
    for _ in range(200):
        optimiser.zero_grad()
        loss(data.clone())["loss"].backward()
        optimiser.step()
    return net(torch.zeros(1)).tolist()


one_hot, categorical = learned(OneHot(2), torch.eye(2).long()), learned(Categorical(2), torch.arange(2))
print("values after 200 updates, 10 is right: one-hot", one_hot, "categorical", categorical)
assert min(one_hot) > 1e20 and max(abs(value - 10) for value in categorical) < 0.01

values = 100 + torch.randn(1000, 6)
actor = QValueActor(torch.nn.Identity(), in_keys=["observation"], spec=OneHot(6))
share = {}
for kind in (torch.float32, torch.bfloat16):
    chosen = actor(TensorDict({"observation": values.to(kind)}, [1000]))["action"].sum(-1)
    share[kind] = (chosen > 1).float().mean().item()
print("states with more than one action, of values around 100:", share)
assert share[torch.float32] < 0.01 and 0.2 < share[torch.bfloat16] < 0.35
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/check.py"

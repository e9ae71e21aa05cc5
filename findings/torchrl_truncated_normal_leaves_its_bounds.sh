#!/usr/bin/env bash
# The deterministic action of TorchRL's TruncatedNormal, cut to [-1, 1], is 5 where the policy's location is 5.
#
# torchrl 0.11.1, torch 2.13.0: `TruncatedNormal` with a scale of .5, as a policy's network may give it. Up to a
# location of 2 all is right. At 3.5 the deterministic sample, its mean, is 2.76 (.91 is right), at 5 it is 5.0, in
# float64 too; random samples are exactly 1 there, so that training does not show what evaluation does, and `GymWrapper`
# hands the 5 to the env. The log-probability of .99 at 5 is -18.6, 2.6 is right: as a density it adds up to less than a
# billionth. The mass between the bounds is a difference of two numbers close to 1, and kept from 0 by a
# constant. A network's location is not bounded by default, and with a scale of .1 it need only pass 1.5. A good guess
# would be that a distribution does not leave its support. Also seen: of `TanhNormal(low=0, high=10, tanh_loc=True)`,
# location 0 is the action 9.9995 and not 5, since the middle is added before the tanh.
# (modules/distributions/truncated_normal.py and continuous.py.)
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
from tensordict.nn import TensorDictModule
from torchrl.envs import GymWrapper
from torchrl.modules import ProbabilisticActor, TanhNormal, TruncatedNormal

print(*(f"{name} {version(name)}" for name in ("torchrl", "tensordict", "torch")))
torch.manual_seed(0)
GRID = torch.linspace(-1, 1, 400_001, dtype=torch.float64)


def right(location, scale, at):
    """Return mean and log-density of a normal distribution cut to [-1, 1], by quadrature."""
    normal = torch.distributions.Normal(torch.tensor(location, dtype=torch.float64), scale)
    log_mass = normal.log_prob(GRID).logsumexp(0) + (GRID[1] - GRID[0]).log()
    mean = (GRID * (normal.log_prob(GRID) - log_mass).exp()).sum() * (GRID[1] - GRID[0])
    return mean.item(), (normal.log_prob(torch.tensor(at, dtype=torch.float64)) - log_mass).item()


for location, scale in ((2.0, 0.5), (3.5, 0.5), (5.0, 0.5), (1.6, 0.1)):
    for kind in (torch.float32, torch.float64):
        policy = TruncatedNormal(torch.tensor([location], dtype=kind), torch.tensor([scale], dtype=kind))
        action = policy.deterministic_sample.item()
        density = policy.log_prob(torch.tensor([0.99], dtype=kind)).item()
        drawn = policy.rsample((1000,))
        mean, log_density = right(location, scale, 0.99)
        print(f"location {location}, scale {scale}, {kind}: deterministic {action:.3f}, right {mean:.3f};", end=" ")
        print(f"drawn up to {drawn.max():.3f}; log-probability of .99 {density:.2f}, right {log_density:.2f}")
        assert drawn.abs().max() <= 1
        if location == 2.0:
            assert abs(action - mean) < 1e-3 and abs(density - log_density) < 1e-3
        else:
            assert action > 1.4 and mean < 1 and log_density - density > 1


class Motor(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.got = float(action[0])
        return np.zeros(1, np.float32), 0.0, False, False, {}


motor = Motor()
env = GymWrapper(motor)
network = TensorDictModule(
    lambda seen: (seen + 5.0, 0 * seen + 0.5), in_keys=["observation"], out_keys=["loc", "scale"]
)
policy = ProbabilisticActor(
    network,
    in_keys=["loc", "scale"],
    spec=env.action_spec,
    distribution_class=TruncatedNormal,
    distribution_kwargs={"low": -1.0, "high": 1.0},
)
env.rollout(1, policy)
print("by ProbabilisticActor an env of actions in [-1, 1] gets", motor.got)
assert motor.got == 5.0

for by_tanh, expected in ((False, 5.0), (True, 9.9995)):
    middle = TanhNormal(torch.zeros(1), torch.full((1,), 0.1), low=0, high=10, tanh_loc=by_tanh).deterministic_sample
    print(f"TanhNormal of [0, 10], location 0, tanh_loc={by_tanh}: {middle.item():.4f}")
    assert abs(middle.item() - expected) < 1e-3
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/check.py"

#!/usr/bin/env bash
# torch's KL divergence of a policy whose illegal actions have logits of -inf is right, and its gradient NaN.
#
# torch 2.13.0: two policies of three actions, the third of which is illegal for both. `kl_divergence(new, old)` of
# `Categorical`, and of `OneHotCategorical`, is .0111, and the gradient by the new policy's logits is NaN for both
# legal actions and 0 for the illegal one. In a batch one masked state is enough: after a step of Adam all weights of
# the network are NaN, save those of the illegal output. Entropy, log-probabilities and `kl_divergence(old, new)` of
# the same masks have right gradients, and with -1e9 for -inf so has the other, -.0748 and .0748. The term of an
# illegal action, 0 times (-inf - -inf), is overwritten by 0, but the derivative of the softmax takes in its NaN.
# A good guess would be that who sets the value of such terms has thought of the slope, as `entropy`, which
# clamps its logits. (torch/distributions/kl.py, `_kl_categorical_categorical`.)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "torch==2.13.0" "numpy==2.4.6"
cat >"$folder/check.py" <<'PYTHON'
import math

import torch
from torch.distributions import Categorical, OneHotCategorical, kl_divergence

LEGAL = torch.tensor([True, True, False])
OLD, NEW = torch.tensor([0.5, 0.1, 0.2]), torch.tensor([0.3, 0.2, 0.7])
print("torch", torch.__version__)


def gradient(function, fill, kind=Categorical):
    """Return a value of (new policy, old policy), and its gradient by the new policy's logits."""
    logits = NEW.clone().requires_grad_()
    new, old = (kind(logits=x.masked_fill(~LEGAL, fill)) for x in (logits, OLD))
    value = function(new, old)
    return value.item(), torch.autograd.grad(value, logits)[0]


def action(new, old):
    return new.log_prob(torch.tensor(0))


CASES = {
    "KL(new, old)": (kl_divergence, -math.inf),
    "KL(new, old), one-hot": (kl_divergence, -math.inf, OneHotCategorical),
    "KL(new, old), -1e9": (kl_divergence, -1e9),
    "KL(old, new)": (lambda new, old: kl_divergence(old, new), -math.inf),
    "entropy": (lambda new, old: new.entropy(), -math.inf),
    "log-probability": (action, -math.inf),
}
for name, case in CASES.items():
    value, slope = gradient(*case)
    print(f"{name}: {value:.4f}, gradient {[round(part, 4) for part in slope.tolist()]}")
    assert math.isfinite(value)
    if name in ("KL(new, old)", "KL(new, old), one-hot"):
        assert abs(value - gradient(kl_divergence, -1e9)[0]) < 1e-6
        assert slope[LEGAL].isnan().all() and slope[2] == 0
    else:
        assert slope.isfinite().all() and slope[LEGAL].abs().min() > 0.01

torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
states, legal = torch.randn(64, 4), torch.ones(64, 3, dtype=torch.bool)
legal[5, 2] = False  # one action of one state
before = Categorical(logits=net(states).detach().masked_fill(~legal, -math.inf))
optimiser = torch.optim.Adam(net.parameters(), lr=1e-3)
penalty = kl_divergence(Categorical(logits=net(states).masked_fill(~legal, -math.inf)), before).mean()
penalty.backward()
optimiser.step()
share = torch.cat([weights.isnan().flatten() for weights in net.parameters()]).float().mean().item()
print(f"a network, one masked state of 64: penalty {penalty.item():.4f}, then NaN in {share:.0%} of its weights")
assert abs(penalty.item()) < 1e-6 and round(share * 67) == 58, "all but the nine of that output"
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/check.py"

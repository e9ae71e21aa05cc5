#!/usr/bin/env bash
# torch.cdist of 25 agents is exact; with a 26th, close agents are at a distance of 0, or of twice what it is.
#
# torch 2.13.0, float32: pairs of agents stand .03 m apart in a field of 10 m around (100, 100). Of 25 agents,
# `torch.cdist` has every distance to 1e-6. Of 26, more than half of the same pairs are at 0, without a gradient that
# parts them, the others at .06, and agents are up to .06 from themselves. Around (0, 0) they are up to .003 from
# themselves. More than 25 rows are taken by |a|^2 - 2ab + |b|^2, in which the square of a small distance is lost in
# the rounding of large ones; the docs give the rule (`compute_mode`), not the price. So a reward for closeness, or a
# penalty for collisions, changes with the number of agents or particles. A good guess would be an error of 1e-7 or so
# of the coordinates in either case. compute_mode="donot_use_mm_for_euclid_dist" has it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "torch==2.13.0" "numpy==2.4.6"
cat >"$folder/check.py" <<'PYTHON'
import torch

print("torch", torch.__version__)
PAIRS = 12


def field(agents, centre):
    """Return places of twelve pairs .03 m apart, and of others, in 200 worlds."""
    generator = torch.Generator().manual_seed(0)
    first = centre - 5 + 10 * torch.rand(200, PAIRS, 2, generator=generator)
    angle = 6.2832 * torch.rand(200, PAIRS, generator=generator)
    second = first + 0.03 * torch.stack([angle.cos(), angle.sin()], dim=-1)
    others = centre - 5 + 10 * torch.rand(200, agents - 2 * PAIRS, 2, generator=generator)
    return torch.cat([first, second, others], dim=1).requires_grad_()


def measured(agents, centre, **options):
    """Return distances of pairs, what they are, the largest of an agent to itself, and the gradients' lengths."""
    places = field(agents, centre)
    distances = torch.cdist(places, places, **options)
    of_pairs = distances[:, range(PAIRS), range(PAIRS, 2 * PAIRS)]
    (gradient,) = torch.autograd.grad(of_pairs.sum(), places)
    with torch.no_grad():
        true = (places[:, :PAIRS] - places[:, PAIRS : 2 * PAIRS]).norm(dim=-1)
    own = distances.diagonal(dim1=1, dim2=2).max().item()
    return of_pairs.detach(), true, own, gradient[:, :PAIRS].norm(dim=-1)


found = {}
for centre in (0.0, 100.0):
    for agents in (25, 26):
        of_pairs, true, own, slopes = found[centre, agents] = measured(agents, centre)
        print(f"{agents} agents around {centre}: pairs {true.min():.3f} to {true.max():.3f} m apart", end=" ")
        print(f"are said to be {of_pairs.min():.3f} to {of_pairs.max():.3f} apart, agents and themselves", end=" ")
        print(f"{own:.3f}; {(of_pairs == 0).float().mean():.0%} at 0,", end=" ")
        print(f"gradients {slopes.min():.2f} to {slopes.max():.2f} long")
for centre in (0.0, 100.0):
    of_pairs, true, own, slopes = found[centre, 25]
    assert torch.allclose(of_pairs, true, atol=1e-6) and own == 0 and torch.allclose(slopes, torch.ones(()), atol=1e-3)
of_pairs, true, own, slopes = found[0.0, 26]
assert (of_pairs - true).abs().max() > 1e-4 and own > 1e-3
of_pairs, true, own, slopes = found[100.0, 26]
assert of_pairs.min() == 0 and of_pairs.max() > 0.06 and own > 0.03 and slopes.min() == 0
of_pairs, true, own, _ = measured(26, 100.0, compute_mode="donot_use_mm_for_euclid_dist")
assert torch.allclose(of_pairs, true, atol=1e-6) and own == 0
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/check.py"

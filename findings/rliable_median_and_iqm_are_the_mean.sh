#!/usr/bin/env bash
# Of three runs on one task, rliable's mean, median and interquartile mean are the same number.
#
# rliable 1.2.0, scipy 1.17.1: runs score 1, 1 and 100, and all three figures are 34. `aggregate_median` is the median
# over tasks of each task's mean over runs: of one task it is the mean, of however many runs. `aggregate_iqm` calls
# SciPy's `trim_mean`, which leaves out whole runs, a quarter rounded down at either end: none of up to 3 runs, one of
# 4 to 7, two of 8. So 3 seeds and 5 seeds make two different statistics, and a fourth run that scores 1
# brings the figure from 34 to 1. A good guess would be 1 for the median, and 17.5 for the interquartile mean,
# a sixth of whose weight the outlier has between the quarters. (metrics.py; arXiv:2108.13264 pools the runs of
# many tasks.)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps \
  "rliable==1.2.0" "scipy==1.17.1" "numpy==2.4.6"  # the two that its metrics need
cat >"$folder/check.py" <<'PYTHON'
from importlib.metadata import version

import numpy as np
from rliable import metrics

FIGURES = {
    "mean": metrics.aggregate_mean,
    "median": metrics.aggregate_median,
    "interquartile mean": metrics.aggregate_iqm,
}


def figures(usual):
    """Of so many runs that score 1 and one that scores 100, on one task."""
    scores = np.array([1.0] * usual + [100.0])[:, None]
    return {name: float(figure(scores)) for name, figure in FIGURES.items()}


def left_out(runs):
    """How many of so many runs the interquartile mean leaves out at the upper end."""
    for count in range(runs):
        scores = np.zeros((runs, 1))
        scores[: count + 1] = 1.0
        if metrics.aggregate_iqm(scores) > 0:
            return count


print("rliable", version("rliable"), "scipy", version("scipy"))
for usual in (2, 3, 4):
    print(f"{usual} runs of 1 and one of 100:", figures(usual))
assert figures(2) == {"mean": 34, "median": 34, "interquartile mean": 34}
assert figures(3) == {"mean": 25.75, "median": 25.75, "interquartile mean": 1}
cut = {runs: left_out(runs) for runs in range(1, 10)}
print("left out at either end, of so many runs:", cut)
assert cut == {1: 0, 2: 0, 3: 0, 4: 1, 5: 1, 6: 1, 7: 1, 8: 2, 9: 2}
PYTHON
"$folder/venv/bin/python" "$folder/check.py"

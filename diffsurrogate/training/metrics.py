"""What an update reports: numbers by name."""

import math
from collections.abc import Mapping

from diffsurrogate.distributed import objects_of_ranks

Metrics = dict[str, float]
_SUMMED = {
    *("episodes_ended", "episodes_terminated", "broken_copies", "dropped_gradients"),
    *("cached_transitions", "update_cpu_seconds"),
}
"""Metrics that are summed over ranks; of the others the mean is taken."""


def joint(report: Metrics, episodes: Mapping[str, int]) -> Metrics:
    """Return the metrics of all ranks: sums of counts, and means over ranks that have the rest.

    Args:
        report: of this rank.
        episodes: over how many episodes metrics are means, by name; these weight its mean.
    """
    reports = objects_of_ranks((report, dict(episodes)))
    if len(reports) == 1:
        return report
    found: Metrics = {}
    for name in dict.fromkeys(name for one, _ in reports for name in one):
        known = [pair for pair in reports if not math.isnan(pair[0].get(name, math.nan))]
        if name in _SUMMED:
            found[name] = math.fsum(one[name] for one, _ in known)
            continue
        weight = sum(counts.get(name, 1) for _, counts in known)
        total = math.fsum(one[name] * counts.get(name, 1) for one, counts in known)
        found[name] = total / weight if known else math.nan
    return found

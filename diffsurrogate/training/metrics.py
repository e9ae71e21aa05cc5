"""What an update reports: numbers by name."""

import math

from diffsurrogate.distributed import objects_of_ranks

Metrics = dict[str, float]
_SUMMED = {
    *("episodes_ended", "episodes_terminated", "broken_copies", "dropped_gradients"),
    *("cached_transitions", "update_cpu_seconds"),
}
"""Metrics that are summed over ranks; of the others the mean is taken."""


def joint(report: Metrics) -> Metrics:
    """Return the metrics of all ranks: sums of counts, and means over ranks that have the rest."""
    reports = objects_of_ranks(report)
    if len(reports) == 1:
        return report
    found: Metrics = {}
    for name in dict.fromkeys(name for one in reports for name in one):
        values = [one[name] for one in reports if not math.isnan(one.get(name, math.nan))]
        total = math.fsum(values)
        found[name] = total if name in _SUMMED else total / len(values) if values else math.nan
    return found

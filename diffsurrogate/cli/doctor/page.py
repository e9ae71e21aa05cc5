"""The doctor's findings as one HTML file, pictures inside."""

from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from diffsurrogate.cli.doctor.findings import Diagnosis, Fit
from diffsurrogate.cli.html_page import drawing, page
from diffsurrogate.cli.html_page import text as plain
from diffsurrogate.training.run_folder import write_text

matplotlib.use("Agg")


def write_page(file: Path, found: Diagnosis, verdict: str, text: str) -> None:
    """Write the page, whole or not at all: the verdict, pictures, and all that was found."""
    drawings = [(c, d) for c, d in _DRAWINGS.items() if d is not _growth or _grows(found.fit)]
    figures = [drawing(_figure(draw, found), caption) for caption, draw in drawings]
    parts = [plain(verdict, "pre"), *figures, plain("All that was found", "h2"), plain(text, "pre")]
    write_text(file, page(found.name, parts))


def _figure(draw: Callable[[Axes, Diagnosis], None], found: Diagnosis) -> Figure:
    figure, axis = plt.subplots(figsize=(4.6, 3.2), layout="constrained")
    draw(axis, found)
    axis.grid(alpha=0.3)
    return figure


def _rewards(axis: Axes, found: Diagnosis) -> None:
    rewards = torch.cat([window.reward.flatten() for window in found.windows])
    axis.hist(rewards[rewards.isfinite()].cpu().numpy(), bins=50, color="#0a3d91")
    axis.set_yscale("symlog", linthresh=1)  # bars stand on 0, and 1 can be seen
    axis.set_xlabel("reward of an agent")
    axis.set_ylabel("steps")


def _lengths(axis: Axes, found: Diagnosis) -> None:
    """Count steps between two resets, by how the episode ended."""
    terminated = torch.cat([window.terminated for window in found.windows])
    truncated = torch.cat([window.truncated for window in found.windows])
    lengths: dict[str, list[int]] = {"ended by state": [], "cut by a time limit": []}
    for env in range(terminated.shape[1]):
        before = -1
        for step in (terminated | truncated)[:, env].nonzero().flatten().tolist():
            name = "ended by state" if terminated[step, env] else "cut by a time limit"
            if before >= 0 or terminated[step, env]:
                lengths[name].append(step - before)
            before = step
    shown = {name: values for name, values in lengths.items() if values}
    if not shown:
        axis.text(0.5, 0.5, f"no whole episode\nin {len(terminated)} steps", ha="center")
        axis.set_axis_off()
        return
    axis.hist(list(shown.values()), bins=30, label=list(shown), stacked=True)
    axis.legend(fontsize=8)
    axis.set_xlabel("steps")
    axis.set_ylabel("episodes")


def _predicted(axis: Axes, found: Diagnosis) -> None:
    pairs = found.fit.rewards
    true, predicted = pairs[:, pairs.isfinite().all(0)].numpy()
    ends = [float(true.min()), float(true.max())] if len(true) else []
    axis.plot(ends, ends, color="grey", lw=1)
    axis.plot(true, predicted, ".", ms=3, alpha=0.4, color="#0a3d91")
    axis.set_xlabel("true reward")
    axis.set_ylabel("predicted")


def _entries(axis: Axes, found: Diagnosis) -> None:
    errors = found.fit.entry_errors.numpy()
    for agent, row in enumerate(errors):
        axis.plot(np.arange(len(row)), row, "o", ms=4, label=f"agent {agent}")
    axis.axhline(1.0, color="grey", lw=1)
    axis.set_yscale("log")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_xlabel("observation entry")
    axis.set_ylabel("unexplained share")
    if 1 < len(errors) <= 5:
        axis.legend(fontsize=8)


def _grows(fit: Fit) -> bool:
    return fit.growth is not None and len(fit.growth) > 1


def _growth(axis: Axes, found: Diagnosis) -> None:
    assert found.fit.growth is not None
    axis.plot(np.arange(1, len(found.fit.growth) + 1), found.fit.growth.numpy(), color="#009e73")
    axis.set_yscale("log")
    axis.set_xlabel("steps after the action")
    axis.set_ylabel("size of the slope")


_DRAWINGS: dict[str, Callable[[Axes, Diagnosis], None]] = {
    "Rewards of a random policy, how many of each size.": _rewards,
    "Steps that random episodes lasted. The first of a copy counts only if it ended by state: time "
    "limits are spread over the copies at first.": _lengths,
    "Rewards in episodes that the model never saw. Off the line it errs.": _predicted,
    "Held-out error of the change of each observation entry: 0 is perfect, 1 no better than its "
    "mean. Missing: it never changes, or only takes whole numbers.": _entries,
    "How much more a later observation depends on an action than the next one does, by the models, "
    "as far as most episodes last. Steep growth asks for shorter windows.": _growth,
}
"""What is drawn, by its caption."""

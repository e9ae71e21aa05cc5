"""The curve and the film a run leaves behind; neither needs a display."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter
from PIL import Image, ImageDraw
from torch import Tensor

from diffsurrogate.envs.env import MultiAgentVectorEnv
from diffsurrogate.errors import UsageError
from diffsurrogate.training.checkpoint import writing

matplotlib.use("Agg")
_MS = 60
"""How long a film shows a frame."""


def draw_curve(history: list[dict[str, Any]], title: str, file: Path) -> None:
    """Draw evaluation return against env steps and against CPU-seconds of training."""
    normalised = bool(history) and history[-1]["normalised_return"] is not None
    key = "normalised_return" if normalised else "mean_return"
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True, layout="constrained")
    for axis, name, label in zip(
        axes, ("env_steps", "cpu_seconds"), ("env steps", "CPU-seconds of training"), strict=True
    ):
        axis.plot([row[name] for row in history], [row[key] for row in history], marker=".")
        axis.set_xlabel(label)
        axis.xaxis.set_major_formatter(EngFormatter(sep=""))
        axis.grid(alpha=0.3)
        if normalised:
            axis.axhline(1.0, color="grey", linestyle="--", linewidth=1)
    axes[0].set_ylabel("normalised return" if normalised else "return")
    figure.suptitle(title)
    save_figure(figure, file)


def save_figure(figure: Figure, file: Path, dpi: int = 120) -> None:
    """Write a picture in the format of its ending, whole or not at all, and close it."""
    with writing(file) as partial:
        figure.savefig(partial, dpi=dpi, format=file.suffix[1:])
    plt.close(figure)


@dataclass(frozen=True)
class Take:
    """A policy to film on an env of its own, and what to write on the film."""

    predict: Callable[[Tensor], Tensor]
    env: MultiAgentVectorEnv
    """Made to be rendered."""
    title: str = ""


def film(takes: Sequence[Take], file: Path, *, steps: int, seed: int) -> int:
    """Film the first episodes of all envs side by side, a row per take; return the frames.

    Args:
        takes: policies, below each other.
        file: a GIF, small and in few colours; or an MP4.
        steps: longest film.
        seed: of every reset.

    Raises:
        UsageError: the env cannot be rendered, there is no such folder, or the file's name ends in
            neither .gif nor .mp4, which needs the extra `video`.
    """
    gif = _is_gif(file)
    if any(take.env.render_mode != "rgb_array" for take in takes):
        raise UsageError(
            "this env cannot be rendered: its render_mode is not 'rgb_array'; make an env of your "
            'own with render_mode="rgb_array"'
        )
    if not file.parent.is_dir():
        raise UsageError(f"there is no folder {file.parent} to write {file.name} to; make it first")
    frames: list[Image.Image] = []
    last: tuple[Image.Image, ...] = ()
    for fresh in itertools.zip_longest(*(_pictures(take, steps, seed) for take in takes)):
        pairs = zip(fresh, last or fresh, strict=True)
        last = tuple(old if new is None else new for new, old in pairs)  # one may end earlier
        frames.append(_stacked(last, few_colours=gif))
    shown = frames + frames[-1:] * 8  # rest at the end before it starts over
    with writing(file) as partial:
        (_write_gif if gif else _write_mp4)(shown, partial)
    return len(frames)


def _pictures(take: Take, steps: int, seed: int) -> Iterator[Image.Image]:
    """Yield a row of pictures of all envs after each step, until the last episode has ended."""
    env = take.env
    env.reset(seed=seed)
    running = torch.ones(env.num_envs, dtype=torch.bool, device=env.device)
    pictures = list(env.render() or ())
    yield _row(pictures, take.title)
    for _ in range(steps):
        with torch.no_grad():
            _, _, terminated, truncated, _ = env.step(take.predict(env.current_obs))
        running &= ~(terminated | truncated)
        fresh = env.render() or ()
        for index in running.nonzero().flatten().tolist():
            pictures[index] = fresh[index]  # an ended episode keeps its last picture
        yield _row(pictures, take.title)
        if not bool(running.any()):
            break


def _is_gif(file: Path) -> bool:
    """Return whether a file's name asks for a GIF; else it asks for an MP4 that can be written."""
    if file.suffix.lower() == ".gif":
        return True
    if file.suffix.lower() != ".mp4":
        raise UsageError(f"{file} is no name of a film; let it end in .gif or .mp4")
    if find_spec("imageio_ffmpeg") is None:
        raise UsageError(
            "an MP4 needs imageio-ffmpeg: pip install 'diffsurrogate[video]'; a .gif does not"
        )
    return False


def _write_gif(frames: list[Image.Image], file: Path) -> None:
    first, *rest = frames
    first.save(file, format="GIF", save_all=True, append_images=rest, duration=_MS, loop=0)


def _write_mp4(frames: list[Image.Image], file: Path) -> None:
    import imageio_ffmpeg

    width, height = (length - length % 2 for length in frames[0].size)  # H.264 takes even ones
    out = imageio_ffmpeg.write_frames(
        str(file), (width, height), fps=1000 / _MS, macro_block_size=2, output_params=["-f", "mp4"]
    )
    out.send(None)
    for frame in frames:
        out.send(frame.crop((0, 0, width, height)).tobytes())
    out.close()


def _row(pictures: list[Any], title: str) -> Image.Image:
    """Put pictures beside each other, small, below a title if there is one."""
    images = [Image.fromarray(np.asarray(picture)) for picture in pictures]
    scale = 200 / images[0].height
    size = (round(images[0].width * scale), 200)
    top = 20 if title else 0
    row = Image.new("RGB", ((size[0] + 4) * len(images) - 4, size[1] + top), "gray")
    row.paste("white", (0, 0, row.width, top))
    ImageDraw.Draw(row).text((4, 2), title, fill="black", font_size=14)
    for index, image in enumerate(images):
        row.paste(image.resize(size), (index * (size[0] + 4), top))
    return row


def _stacked(rows: Sequence[Image.Image], *, few_colours: bool) -> Image.Image:
    """Put rows below each other."""
    height = sum(row.height + 4 for row in rows) - 4
    frame, top = Image.new("RGB", (max(row.width for row in rows), height), "white"), 0
    for row in rows:
        frame.paste(row, (0, top))
        top += row.height + 4
    return frame.quantize(32, dither=Image.Dither.NONE) if few_colours else frame

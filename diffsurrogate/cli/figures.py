"""The curve and the film a run leaves behind; neither needs a display."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter
from PIL import Image
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


def film(
    predict: Callable[[Tensor], Tensor],
    env: MultiAgentVectorEnv,
    file: Path,
    *,
    steps: int,
    seed: int,
) -> int:
    """Film the first episodes of all envs of `env` side by side; return the number of frames.

    Args:
        predict: the policy.
        env: made to be rendered.
        file: a GIF, small and in few colours; or an MP4.
        steps: longest film.
        seed: of the reset.

    Raises:
        UsageError: the env cannot be rendered, there is no such folder, or the file's name ends in
            neither .gif nor .mp4, which needs the extra `video`.
    """
    gif = _is_gif(file)
    if env.render_mode != "rgb_array":
        raise UsageError("this env cannot be rendered without a display")
    if not file.parent.is_dir():
        raise UsageError(f"there is no folder {file.parent} to write {file.name} to; make it first")
    env.reset(seed=seed)
    running = torch.ones(env.num_envs, dtype=torch.bool, device=env.device)
    pictures = list(env.render() or ())
    frames = [_row(pictures, few_colours=gif)]
    with torch.no_grad():
        for _ in range(steps):
            _, _, terminated, truncated, _ = env.step(predict(env.current_obs))
            running &= ~(terminated | truncated)
            fresh = env.render() or ()
            for index in running.nonzero().flatten().tolist():
                pictures[index] = fresh[index]  # an ended episode keeps its last picture
            frames.append(_row(pictures, few_colours=gif))
            if not bool(running.any()):
                break
    shown = frames + frames[-1:] * 8  # rest at the end before it starts over
    with writing(file) as partial:
        (_write_gif if gif else _write_mp4)(shown, partial)
    return len(frames)


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


def _row(pictures: list[Any], *, few_colours: bool) -> Image.Image:
    """Put pictures beside each other, small."""
    images = [Image.fromarray(np.asarray(picture)) for picture in pictures]
    scale = 200 / images[0].height
    size = (round(images[0].width * scale), 200)
    row = Image.new("RGB", ((size[0] + 4) * len(images) - 4, size[1]), "white")
    for index, image in enumerate(images):
        row.paste(image.resize(size), (index * (size[0] + 4), 0))
    return row.quantize(32, dither=Image.Dither.NONE) if few_colours else row

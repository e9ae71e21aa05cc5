"""Draw a VMAS world with Pillow: no display, no OpenGL, no pyglet.

What is drawn: spheres, boxes and lines at their places and angles, in their colours, unless the
scenario hides them (`is_rendering`), and the world's border. Not drawn: what only a scenario's
`extra_render` knows (a density, ranges), lidar rays and messages.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

LONG_SIDE = 400
"""Pixels of the longer side of a frame."""
SUPERSAMPLING = 3
"""Every pixel is the mean of this many squared."""
MARGIN = 0.1
"""World units around the border."""
BORDER = (64, 64, 64)
RGB = tuple[int, int, int]
Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Camera:
    """Which part of the world is seen, and how large."""

    centre: Point
    half_extent: Point
    """World units from the centre to the right and to the upper edge."""

    @property
    def scale(self) -> float:
        """Pixels per world unit."""
        return LONG_SIDE * SUPERSAMPLING / (2 * max(self.half_extent))

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, before supersampling is undone."""
        width, height = (round(2 * half * self.scale / SUPERSAMPLING) for half in self.half_extent)
        even = (max(2, width + width % 2), max(2, height + height % 2))  # as video codecs want
        return even[0] * SUPERSAMPLING, even[1] * SUPERSAMPLING

    def pixel(self, point: Point) -> Point:
        """Return where a world point is seen; y points up in the world and down in a frame."""
        width, height = self.size
        return (
            width / 2 + (point[0] - self.centre[0]) * self.scale,
            height / 2 - (point[1] - self.centre[1]) * self.scale,
        )


def draw_world(scenario: Any, env_index: int) -> np.ndarray:
    """Draw one env of a VMAS scenario.

    Returns:
        frame `(height, width, 3)` uint8, its longer side about 400.
    """
    camera = fit_camera(scenario, env_index)
    image = Image.new("RGB", camera.size, (255, 255, 255))
    pen = ImageDraw.Draw(image)
    world = scenario.world
    if scenario.visualize_semidims:
        far = 100.0  # off the frame, where the world has no border
        x, y = world.x_semidim or far, world.y_semidim or far
        if world.x_semidim or world.y_semidim:
            corners = (*camera.pixel((-x, y)), *camera.pixel((x, -y)))
            pen.rectangle(corners, outline=BORDER, width=SUPERSAMPLING)
    agents = {id(agent) for agent in world.agents}
    for entity in world.entities:  # agents come last, on top
        if bool(entity.is_rendering[env_index]):
            _draw_entity(pen, camera, entity, env_index, is_agent=id(entity) in agents)
    small = (camera.size[0] // SUPERSAMPLING, camera.size[1] // SUPERSAMPLING)
    return np.asarray(image.resize(small, Image.Resampling.BOX))


def fit_camera(scenario: Any, env_index: int) -> Camera:
    """Show the whole world where it has a border; elsewhere zoom out until every entity is seen."""
    world = scenario.world
    border = (world.x_semidim, world.y_semidim)
    if border[0] is not None and border[1] is not None:
        half = (border[0] + MARGIN, border[1] + MARGIN)
        return Camera(centre=(0.0, 0.0), half_extent=half)
    centre = (float(scenario.render_origin[0]), float(scenario.render_origin[1]))
    aspect = scenario.viewer_size[0] / scenario.viewer_size[1]
    reach = float(scenario.viewer_zoom)  # of the shorter side, as in VMAS's own viewer
    for entity in world.entities:
        x, y, _ = _pose(entity, env_index)
        if math.isfinite(x + y):
            dx, dy = abs(x - centre[0]), abs(y - centre[1])
            reach = max(reach, dx / max(aspect, 1.0) + MARGIN, dy * min(aspect, 1.0) + MARGIN)
    half = (reach * max(aspect, 1.0), reach / min(aspect, 1.0))
    return Camera(centre=centre, half_extent=half)


def _draw_entity(
    pen: ImageDraw.ImageDraw, camera: Camera, entity: Any, env_index: int, *, is_agent: bool
) -> None:
    x, y, angle = _pose(entity, env_index)
    if not math.isfinite(x + y + angle):
        return
    line = _colour(entity.color, env_index)
    opacity = float(entity._alpha) if is_agent else 1.0
    red, green, blue = (round(opacity * part + (1 - opacity) * 255) for part in line)
    fill = (red, green, blue)
    shape = entity.shape
    if hasattr(shape, "radius"):
        centre = camera.pixel((x, y))
        radius = max(shape.radius * camera.scale, SUPERSAMPLING)
        pen.circle(centre, radius, fill=fill, outline=line, width=SUPERSAMPLING)
        return
    corners = [(-0.5, 0.0), (0.5, 0.0)]
    width = 0.0
    if hasattr(shape, "hollow"):  # a box; a line has a width too, but in pixels
        corners = [(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)]
        width = shape.width
    cos, sin = math.cos(angle), math.sin(angle)
    sides = [(u * shape.length, v * width) for u, v in corners]
    points = [camera.pixel((x + cos * u - sin * v, y + sin * u + cos * v)) for u, v in sides]
    if len(points) == 2:
        pen.line(points, fill=line, width=2 * SUPERSAMPLING)
    elif shape.hollow:
        pen.polygon(points, outline=line, width=SUPERSAMPLING)
    else:
        pen.polygon(points, fill=fill, outline=line, width=SUPERSAMPLING)


def _pose(entity: Any, env_index: int) -> tuple[float, float, float]:
    x, y = entity.state.pos[env_index].tolist()
    return x, y, float(entity.state.rot[env_index])


def _colour(colour: Any, env_index: int) -> RGB:
    """Return VMAS's colour, floats or a tensor `(3,)` or `(env, 3)`, as bytes."""
    if isinstance(colour, Tensor):
        colour = (colour[env_index] if colour.ndim > 1 else colour).tolist()
    red, green, blue = (round(255 * min(max(float(part), 0.0), 1.0)) for part in colour[:3])
    return red, green, blue

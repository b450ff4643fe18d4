"""A drawing surface in the unit frame, seen through a camera.

In the unit frame x runs from 0 (left) to 1 (right) and y from 0 (top) to `FRAME_HEIGHT` (bottom); one unit is
the picture's width in both directions. The canvas has twice the final size and is scaled down at the end.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from distracted.sample._palette import Colour, tone

FRAME_HEIGHT = 0.75
SUPERSAMPLING = 2
FIXED_POINT_BITS = 4  # OpenCV draws at 1/16 of a pixel
SHADOW_SHRINK = 8  # soft shadows have no detail, so they are drawn at 1/8 of the size

Point = tuple[float, float]
Points = Sequence[Point] | npt.NDArray[np.float64]
Pixels = npt.NDArray[np.uint8]

_CIRCLE = np.array([(math.cos(t), math.sin(t)) for t in np.linspace(0, 2 * math.pi, 28, endpoint=False)])
_HALF_TURN = np.linspace(math.pi / 2, 3 * math.pi / 2, 8)
_BACK_CAP = np.column_stack([np.cos(_HALF_TURN), np.sin(_HALF_TURN)])
_FRONT_CAP = -_BACK_CAP
_SHELL_SIZES = np.array([1.0, 0.84, 0.64, 0.4])[:, None, None]  # layers of a rounded shape, edge to highlight
_SHELL_GAINS = (-0.75, -0.25, 0.1, 0.4)  # brightness of the layers, as multiples of the relief


@dataclass(frozen=True)
class Camera:
    """Maps the unit frame to the picture: zoom and tilt (radians) about the centre, then shift."""

    zoom: float = 1.0
    tilt: float = 0.0
    shift: Point = (0.0, 0.0)

    def matrix(self) -> npt.NDArray[np.float64]:
        """Affine matrix within the unit frame, shape (2, 3)."""
        cos, sin = self.zoom * math.cos(self.tilt), self.zoom * math.sin(self.tilt)
        linear = np.array([[cos, -sin], [sin, cos]])
        centre = np.array([0.5, FRAME_HEIGHT / 2])
        offset = centre - linear @ centre + np.array(self.shift)
        return np.column_stack([linear, offset])


def blob(points: Points, steps: int = 5) -> npt.NDArray[np.float64]:
    """A closed Catmull-Rom curve through `points`, shape (len(points) * steps, 2)."""
    p = np.asarray(points, dtype=np.float64)
    ring = np.concatenate([p[-1:], p, p[:2]])[:, None, :]
    p0, p1, p2, p3 = ring[:-3], ring[1:-2], ring[2:-1], ring[3:]
    t = (np.arange(steps) / steps)[None, :, None]
    curve = 0.5 * (
        2 * p1 + (p2 - p0) * t + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2 + (3 * p1 - p0 - 3 * p2 + p3) * t**3
    )
    return np.asarray(curve.reshape(-1, 2))


def oval(centre: Point, radii: Point, angle: float = 0.0) -> npt.NDArray[np.float64]:
    """Outline of an ellipse rotated by `angle` radians, shape (28, 2)."""
    cos, sin = math.cos(angle), math.sin(angle)
    rotation = np.array([[cos, sin], [-sin, cos]])
    return np.asarray((_CIRCLE * radii) @ rotation + centre)


def capsule(start: Point, end: Point, start_radius: float, end_radius: float) -> npt.NDArray[np.float64]:
    """Outline of a tapered capsule, shape (16, 2)."""
    caps = _caps(start, end, start_radius, end_radius)
    return np.asarray(caps + np.repeat([start, end], len(_BACK_CAP), axis=0))


def slab(centre: Point, size: Point, angle: float) -> npt.NDArray[np.float64]:
    """Corners of a rectangle rotated by `angle` radians, shape (4, 2)."""
    cos, sin = math.cos(angle), math.sin(angle)
    corners = np.array([(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)]) * size
    return np.asarray(corners @ np.array([[cos, sin], [-sin, cos]]) + centre)


class Canvas:
    """Pixels seen through a camera, and a light that shades rounded shapes.

    Args:
        width: Width of the final picture in pixels; `pixels` is `SUPERSAMPLING` times as wide.
        camera: Applied to every point.
        light: Unit vector towards the light.
        relief: How much brighter the lit side of a rounded shape is, 0 to about 0.5.
    """

    def __init__(self, width: int, camera: Camera, *, light: Point, relief: float) -> None:
        self._scale = width * SUPERSAMPLING
        self.pixels: Pixels = np.zeros((round(self._scale * FRAME_HEIGHT), self._scale, 3), np.uint8)
        matrix = camera.matrix() * (self._scale * 2**FIXED_POINT_BITS)
        self._linear, self._offset = matrix[:, :2].T, matrix[:, 2]
        self._zoom = camera.zoom
        self._light = light
        self._relief = relief

    def fill(self, outline: Points, colour: Colour) -> None:
        """Fill an outline."""
        self.fill_with_holes([outline], colour)

    def fill_with_holes(self, outlines: Sequence[Points], colour: Colour) -> None:
        """Fill the points inside an odd number of the outlines."""
        fixed = [self._to_fixed(outline) for outline in outlines]
        cv2.fillPoly(self.pixels, fixed, colour, cv2.LINE_AA, FIXED_POINT_BITS)

    def stroke(self, line: Points, thickness: float, colour: Colour, *, closed: bool = False) -> None:
        """Draw a line; `thickness` is in units."""
        width, fixed = max(1, round(thickness * self._scale * self._zoom)), [self._to_fixed(line)]
        cv2.polylines(self.pixels, fixed, closed, colour, width, cv2.LINE_AA, FIXED_POINT_BITS)

    def limb(self, start: Point, end: Point, start_radius: float, end_radius: float, colour: Colour) -> None:
        """Draw a rounded, tapered capsule."""
        caps = _caps(start, end, start_radius, end_radius)
        half = len(_BACK_CAP)
        anchors = np.repeat([start, end], half, axis=0)
        self._round(anchors, caps, np.repeat([start_radius, end_radius], half), colour)

    def ball(self, centre: Point, radii: Point, colour: Colour, angle: float = 0.0) -> None:
        """Draw a rounded ellipse."""
        self._round(np.array([centre]), oval((0.0, 0.0), radii, angle), np.array([min(radii)]), colour)

    def shade(self, outlines: Sequence[Points], strength: float, softness: float) -> None:
        """Darken the inside of the outlines by `strength` (0 to 1), with an edge `softness` units wide."""
        shapes = [self._to_fixed(outline) / (2**FIXED_POINT_BITS * SHADOW_SHRINK) for outline in outlines]
        fixed = np.concatenate(shapes)
        blur = max(1.0, softness * self._scale / SHADOW_SHRINK)
        margin = math.ceil(2 * blur)
        height, width = self.pixels.shape[0] // SHADOW_SHRINK, self.pixels.shape[1] // SHADOW_SHRINK
        left, top = np.clip(np.floor(fixed.min(axis=0)) - margin, 0, (width, height)).astype(int)
        right, bottom = np.clip(np.ceil(fixed.max(axis=0)) + margin, 0, (width, height)).astype(int)
        if right <= left or bottom <= top:
            return
        mask = np.full((bottom - top, right - left), 255, np.uint8)
        grey = (round(255 * (1 - strength)),)
        for shape in shapes:
            cv2.fillPoly(mask, [np.round(shape - (left, top)).astype(np.int32)], grey)
        mask = cv2.GaussianBlur(mask, (0, 0), blur / 2, borderType=cv2.BORDER_REPLICATE)
        rows = slice(top * SHADOW_SHRINK, bottom * SHADOW_SHRINK)
        columns = slice(left * SHADOW_SHRINK, right * SHADOW_SHRINK)
        region = self.pixels[rows, columns]
        mask = cv2.resize(mask, (region.shape[1], region.shape[0]))
        cv2.multiply(region, cv2.merge([mask, mask, mask]), dst=region, scale=1 / 255)

    def paste_top(self, picture: Pixels, bottom: float) -> None:
        """Stretch a picture over the canvas from the top edge down to `bottom` (units)."""
        rows = min(self.pixels.shape[0], max(1, round(bottom * self._scale)))
        cv2.resize(picture, (self.pixels.shape[1], rows), dst=self.pixels[:rows])

    def _round(
        self,
        anchors: npt.NDArray[np.float64],
        spokes: npt.NDArray[np.float64],
        reach: npt.NDArray[np.float64],
        colour: Colour,
    ) -> None:
        """Fill shrinking copies of an outline, from a dark edge to a highlight towards the light.

        Args:
            anchors: Points to shrink towards, shape (N, 2) or (1, 2).
            spokes: Vectors from the anchors to the outline, shape (N, 2).
            reach: Maximum shift towards the light, shape (N,) or (1,).
            colour: Colour between edge and highlight.
        """
        towards_light = reach[:, None] * self._light
        outlines = anchors + _SHELL_SIZES * spokes + (1 - _SHELL_SIZES) * towards_light  # (shells, N, 2)
        edge = cv2.LINE_AA
        for fixed, gain in zip(self._to_fixed(outlines), _SHELL_GAINS, strict=True):
            shell_colour = tone(colour, 1 + gain * self._relief)
            cv2.fillPoly(self.pixels, [fixed], shell_colour, edge, FIXED_POINT_BITS)
            edge = cv2.LINE_8  # faster; the inner layers differ too little for a visible edge

    def _to_fixed(self, points: Points) -> npt.NDArray[np.int32]:
        """OpenCV's fixed-point pixels, the same shape (..., 2)."""
        pixels = np.asarray(points, dtype=np.float64) @ self._linear + self._offset
        return np.asarray(np.rint(pixels), dtype=np.int32)


def _caps(start: Point, end: Point, start_radius: float, end_radius: float) -> npt.NDArray[np.float64]:
    """The two half circles of a capsule, each around the origin, shape (16, 2)."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    length = math.hypot(dx, dy) or 1.0
    cos, sin = dx / length, dy / length
    caps = np.concatenate([_BACK_CAP * start_radius, _FRONT_CAP * end_radius])
    return np.asarray(caps @ np.array([[cos, sin], [-sin, cos]]))

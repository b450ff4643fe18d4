"""The scenery outside: a blurred panorama that slides past behind the windows."""

from dataclasses import dataclass
from enum import Enum

import cv2
import numpy as np
from numpy.random import Generator

from distracted.sample._canvas import Pixels, Point
from distracted.sample._palette import Colour, mix, tone

# Size of the panorama, in picture widths
LENGTH = 6.0
HEIGHT = 0.5


Place = Enum("Place", "TREES TOWN FIELDS CAR_PARK")

GREENS: tuple[Colour, ...] = ((58, 84, 46), (86, 108, 58), (112, 122, 70), (44, 62, 48), (128, 104, 60))
WALLS: tuple[Colour, ...] = ((150, 120, 100), (120, 116, 116), (176, 164, 146), (96, 84, 84), (190, 186, 180))
CARS: tuple[Colour, ...] = ((180, 184, 190), (40, 44, 52), (140, 34, 38), (50, 70, 120), (226, 226, 224))
SKIES: tuple[Colour, ...] = (
    (236, 240, 246), (190, 210, 236), (216, 216, 214), (246, 226, 196), (150, 160, 176),
)  # fmt: skip
ROAD: Colour = (118, 116, 114)


@dataclass(frozen=True)
class Scenery:
    """The place and the light outside."""

    place: Place
    daylight: float
    glare: float  # overexposure by a camera that is set for the cabin, 0 to 1


def random_scenery(rng: Generator) -> Scenery:
    """A random place and hour."""
    return Scenery(
        place=list(Place)[rng.integers(len(Place))],
        daylight=float(rng.uniform(0.6, 1.2)),
        glare=float(rng.uniform(0.25, 0.6)),
    )


def draw_panorama(scenery: Scenery, width: int, rng: Generator) -> Pixels:
    """A random strip of scenery, uint8 RGB, shape (HEIGHT * width / 2, LENGTH * width / 2, 3)."""
    scale = width / 2  # half of the size: it is blurred anyway
    rows, columns = round(HEIGHT * scale), round(LENGTH * scale)
    sky = SKIES[rng.integers(len(SKIES))]
    fade = np.linspace(0, 1, rows)[:, None, None]
    picture = np.empty((rows, columns, 3), np.uint8)
    picture[:] = np.array(tone(sky, scenery.daylight)) * (1 - 0.15 * fade) + 0.15 * fade * 120
    horizon = rng.uniform(0.2, 0.34)
    ground = mix(GREENS[rng.integers(len(GREENS))], ROAD, 0.2 if scenery.place is Place.FIELDS else 0.8)
    picture[round(horizon * scale) :] = tone(ground, scenery.daylight)
    counts = {Place.TREES: (50, 4), Place.TOWN: (10, 32), Place.FIELDS: (12, 2), Place.CAR_PARK: (10, 10)}
    num_trees, num_houses = counts[scenery.place]
    for _ in range(num_houses):
        _draw_house(picture, scale, horizon, scenery.daylight, rng)
    for _ in range(num_trees):
        _draw_tree(picture, scale, horizon, scenery.daylight, rng)
    for _ in range(28 if scenery.place is Place.CAR_PARK else 6):
        _draw_car(picture, scale, horizon, scenery.daylight, rng)
    blurred: Pixels = cv2.GaussianBlur(picture, (0, 0), max(0.6, 0.014 * scale))
    overexposed: Pixels = cv2.addWeighted(blurred, 1 - scenery.glare, blurred, 0, 235 * scenery.glare)
    return overexposed


def _draw_house(picture: Pixels, scale: float, horizon: float, daylight: float, rng: Generator) -> None:
    left, width, top = rng.uniform(0, LENGTH), rng.uniform(0.1, 0.3), rng.uniform(0.0, horizon)
    wall = tone(WALLS[rng.integers(len(WALLS))], daylight)
    _fill_box(picture, scale, (left, top), (left + width, horizon + 0.03), wall)
    for x in np.arange(left + 0.03, left + width - 0.03, 0.055):
        for y in np.arange(top + 0.03, horizon - 0.03, 0.07):
            _fill_box(picture, scale, (x, y), (x + 0.025, y + 0.035), tone(wall, 0.55))


def _draw_tree(picture: Pixels, scale: float, horizon: float, daylight: float, rng: Generator) -> None:
    x, size = rng.uniform(0, LENGTH), rng.uniform(0.05, 0.14)
    leaves = tone(GREENS[rng.integers(len(GREENS))], daylight * rng.uniform(0.8, 1.2))
    foot = round(x * scale), round(horizon * scale)
    top = foot[0], round((horizon - size) * scale)
    cv2.line(picture, foot, top, tone((80, 62, 50), daylight), max(1, round(0.02 * scale)))
    for _ in range(4):
        centre_x, centre_y = x + rng.normal(0, size * 0.4), horizon - size * rng.uniform(0.7, 1.8)
        centre = round(centre_x * scale), round(centre_y * scale)
        radius = max(1, round(size * rng.uniform(0.4, 0.75) * scale))
        cv2.circle(picture, centre, radius, tone(leaves, rng.uniform(0.8, 1.25)), cv2.FILLED)


def _draw_car(picture: Pixels, scale: float, horizon: float, daylight: float, rng: Generator) -> None:
    x, length = rng.uniform(0, LENGTH), rng.uniform(0.18, 0.26)
    body = tone(CARS[rng.integers(len(CARS))], daylight)
    y = horizon + 0.03
    _fill_box(picture, scale, (x + 0.2 * length, y - 0.08), (x + 0.8 * length, y - 0.03), tone(body, 0.6))
    _fill_box(picture, scale, (x, y - 0.035), (x + length, y + 0.03), body)


def _fill_box(picture: Pixels, scale: float, corner: Point, opposite: Point, colour: Colour) -> None:
    first, second = ((round(x * scale), round(y * scale)) for x, y in (corner, opposite))
    cv2.rectangle(picture, first, second, colour, cv2.FILLED)

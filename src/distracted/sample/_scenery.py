"""What passes outside: a blurred panorama that slides behind the windows."""

from dataclasses import dataclass
from enum import Enum

import cv2
import numpy as np

from distracted.sample._canvas import Pixels
from distracted.sample._palette import Colour, mix, tone

LENGTH = 6.0  # of the panorama, in picture widths
HEIGHT = 0.5


class Place(Enum):
    TREES = "trees"
    TOWN = "town"
    FIELDS = "fields"
    CAR_PARK = "car park"


GREENS: tuple[Colour, ...] = ((58, 84, 46), (86, 108, 58), (112, 122, 70), (44, 62, 48), (128, 104, 60))
WALLS: tuple[Colour, ...] = ((150, 120, 100), (120, 116, 116), (176, 164, 146), (96, 84, 84), (190, 186, 180))
CARS: tuple[Colour, ...] = ((180, 184, 190), (40, 44, 52), (140, 34, 38), (50, 70, 120), (226, 226, 224))
SKIES: tuple[Colour, ...] = (
    (236, 240, 246),
    (190, 210, 236),
    (216, 216, 214),
    (246, 226, 196),
    (150, 160, 176),
)
ROAD: Colour = (118, 116, 114)


@dataclass(frozen=True)
class Outside:
    """What a subject drives past, and when."""

    place: Place
    daylight: float
    glare: float  # how far a camera that is set for the cabin overexposes it, 0 to 1


def draw_outside(rng: np.random.Generator) -> Outside:
    """A place and an hour."""
    return Outside(
        place=list(Place)[rng.integers(len(Place))],
        daylight=float(rng.uniform(0.6, 1.2)),
        glare=float(rng.uniform(0.25, 0.6)),
    )


def draw_panorama(outside: Outside, width: int, rng: np.random.Generator) -> Pixels:
    """A strip of scenery, out of focus, uint8 RGB, shape (HEIGHT * width / 2, LENGTH * width / 2, 3)."""
    scale = width / 2  # half size: it is blurred anyway
    rows, columns = round(HEIGHT * scale), round(LENGTH * scale)
    sky = SKIES[rng.integers(len(SKIES))]
    fade = np.linspace(0, 1, rows)[:, None, None]
    picture = np.empty((rows, columns, 3), np.uint8)
    picture[:] = np.array(tone(sky, outside.daylight)) * (1 - 0.15 * fade) + 0.15 * fade * 120
    horizon = rng.uniform(0.2, 0.34)
    ground = mix(GREENS[rng.integers(len(GREENS))], ROAD, 0.2 if outside.place is Place.FIELDS else 0.8)
    picture[round(horizon * scale) :] = tone(ground, outside.daylight)
    counts = {Place.TREES: (50, 4), Place.TOWN: (10, 32), Place.FIELDS: (12, 2), Place.CAR_PARK: (10, 10)}
    num_trees, num_houses = counts[outside.place]
    for _ in range(num_houses):
        _draw_house(picture, scale, horizon, outside.daylight, rng)
    for _ in range(num_trees):
        _draw_tree(picture, scale, horizon, outside.daylight, rng)
    for _ in range(28 if outside.place is Place.CAR_PARK else 6):
        _draw_car(picture, scale, horizon, outside.daylight, rng)
    blurred: Pixels = cv2.GaussianBlur(picture, (0, 0), max(0.6, 0.014 * scale))
    overexposed: Pixels = cv2.addWeighted(blurred, 1 - outside.glare, blurred, 0, 235 * outside.glare)
    return overexposed


def _draw_house(
    picture: Pixels, scale: float, horizon: float, daylight: float, rng: np.random.Generator
) -> None:
    left, width, top = rng.uniform(0, LENGTH), rng.uniform(0.1, 0.3), rng.uniform(0.0, horizon)
    corners = (
        (round(left * scale), round(top * scale)),
        (round((left + width) * scale), round((horizon + 0.03) * scale)),
    )
    wall = tone(WALLS[rng.integers(len(WALLS))], daylight)
    cv2.rectangle(picture, *corners, wall, cv2.FILLED)
    for x in np.arange(left + 0.03, left + width - 0.03, 0.055):
        for y in np.arange(top + 0.03, horizon - 0.03, 0.07):
            corner = round(x * scale), round(y * scale)
            opposite = round((x + 0.025) * scale), round((y + 0.035) * scale)
            cv2.rectangle(picture, corner, opposite, tone(wall, 0.55), cv2.FILLED)


def _draw_tree(
    picture: Pixels, scale: float, horizon: float, daylight: float, rng: np.random.Generator
) -> None:
    x, size = rng.uniform(0, LENGTH), rng.uniform(0.05, 0.14)
    leaves = tone(GREENS[rng.integers(len(GREENS))], daylight * rng.uniform(0.8, 1.2))
    trunk = round(x * scale), round(horizon * scale)
    cv2.line(
        picture,
        trunk,
        (trunk[0], round((horizon - size) * scale)),
        tone((80, 62, 50), daylight),
        max(1, round(0.02 * scale)),
    )
    for _ in range(4):
        centre = (
            round((x + rng.normal(0, size * 0.4)) * scale),
            round((horizon - size * rng.uniform(0.7, 1.8)) * scale),
        )
        radius = max(1, round(size * rng.uniform(0.4, 0.75) * scale))
        cv2.circle(picture, centre, radius, tone(leaves, rng.uniform(0.8, 1.25)), cv2.FILLED)


def _draw_car(
    picture: Pixels, scale: float, horizon: float, daylight: float, rng: np.random.Generator
) -> None:
    x, length = rng.uniform(0, LENGTH), rng.uniform(0.18, 0.26)
    body = tone(CARS[rng.integers(len(CARS))], daylight)
    for left, right, top, bottom, colour in (
        (0.2, 0.8, -0.08, -0.03, tone(body, 0.6)),
        (0.0, 1.0, -0.035, 0.03, body),
    ):
        corner = round((x + left * length) * scale), round((horizon + 0.03 + top) * scale)
        opposite = round((x + right * length) * scale), round((horizon + 0.03 + bottom) * scale)
        cv2.rectangle(picture, corner, opposite, colour, cv2.FILLED)

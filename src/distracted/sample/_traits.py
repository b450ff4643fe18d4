"""Person, car, camera and light of a subject; they are the same in all of its frames."""

import math
from dataclasses import dataclass
from enum import Enum

import numpy as np

from distracted.sample import _palette as palette
from distracted.sample._canvas import Camera, Point
from distracted.sample._palette import Colour

Hair = Enum("Hair", "BALD SHORT CURLY BOB LONG PONYTAIL")
Headgear = Enum("Headgear", "NONE CAP BEANIE HOOD")
Pattern = Enum("Pattern", "PLAIN STRIPES CHECKS VEST")


@dataclass(frozen=True)
class Person:
    """A driver's body and clothes. Sizes are factors on an average driver's."""

    skin: Colour
    hair: Colour
    hair_style: Hair
    headgear: Headgear
    headgear_colour: Colour
    glasses: Colour | None
    dark_glasses: bool
    beard: float  # 0 none to 1 full
    head_size: float
    height: float
    girth: float
    arm_thickness: float
    slouch: float  # shift of the shoulders along x, in units
    shirt: Colour
    accent: Colour
    pattern: Pattern
    sleeve: float  # covered fraction of the arm, 0 shoulder to 1 wrist
    legs: Colour


@dataclass(frozen=True)
class Car:
    """The cabin; positions and sizes are in units."""

    trim: Colour
    seat: Colour
    dash: Colour
    belt: Colour
    window_top: float
    window_sill: float
    pillar: float  # x at the sill of the pillar between side window and windscreen
    headrest: bool
    wheel_centre: Point
    wheel_radii: Point
    wheel_tilt: float
    radio: Point
    radio_colour: Colour
    has_screen: bool


@dataclass(frozen=True)
class Light:
    """The light in the cabin, and the sensor."""

    exposure: float
    gamma: float
    warmth: float  # above 0 raises red and lowers blue
    direction: Point
    relief: float
    falloff: float  # darkening of the side away from the light
    haze: float  # 0 to 1
    saturation: float
    noise: float  # standard deviation in grey levels
    blur: float  # standard deviation in final pixels at 320 pixels of width


def random_person(rng: np.random.Generator) -> Person:
    """A random driver."""
    hair_style = list(Hair)[rng.choice(len(Hair), p=[0.1, 0.34, 0.12, 0.12, 0.18, 0.14])]
    headgear = list(Headgear)[rng.choice(len(Headgear), p=[0.68, 0.16, 0.09, 0.07])]
    may_have_beard = hair_style in (Hair.BALD, Hair.SHORT, Hair.CURLY)
    return Person(
        skin=palette.pick(rng, palette.SKINS, 6),
        hair=palette.pick(rng, palette.HAIRS, 6),
        hair_style=hair_style,
        headgear=headgear,
        headgear_colour=palette.pick(rng, palette.CLOTHS),
        glasses=palette.pick(rng, palette.PROPS) if rng.random() < 0.35 else None,
        dark_glasses=bool(rng.random() < 0.5),
        beard=float(rng.uniform(0.4, 1)) if may_have_beard and rng.random() < 0.45 else 0.0,
        head_size=float(rng.uniform(0.9, 1.12)),
        height=float(rng.normal(1.0, 0.045)),
        girth=float(rng.uniform(0.82, 1.28)),
        arm_thickness=float(rng.uniform(0.8, 1.3)),
        slouch=float(rng.normal(0, 0.015)),
        shirt=palette.pick(rng, palette.CLOTHS),
        accent=palette.pick(rng, palette.CLOTHS),
        pattern=list(Pattern)[rng.choice(len(Pattern), p=[0.5, 0.2, 0.15, 0.15])],
        sleeve=float(rng.choice([rng.uniform(0.1, 0.4), rng.uniform(0.85, 0.98)])),
        legs=palette.pick(rng, palette.LEGS),
    )


def random_car(rng: np.random.Generator) -> Car:
    """A random cabin."""
    trim = palette.pick(rng, palette.TRIMS)
    return Car(
        trim=trim,
        seat=palette.pick(rng, palette.TRIMS) if rng.random() < 0.7 else palette.pick(rng, palette.CLOTHS),
        dash=palette.mix(trim, palette.pick(rng, palette.TRIMS), float(rng.uniform(0, 1))),
        belt=palette.pick(rng, palette.TRIMS),
        window_top=float(rng.uniform(0.0, 0.07)),
        window_sill=float(rng.uniform(0.31, 0.39)),
        pillar=float(rng.uniform(0.66, 0.75)),
        headrest=bool(rng.random() < 0.8),
        wheel_centre=(float(rng.normal(0.765, 0.02)), float(rng.normal(0.485, 0.02))),
        wheel_radii=(float(rng.uniform(0.07, 0.105)), float(rng.uniform(0.145, 0.185))),
        wheel_tilt=float(rng.uniform(0.05, 0.4)),
        radio=(float(rng.normal(0.885, 0.02)), float(rng.normal(0.615, 0.02))),
        radio_colour=palette.pick(rng, palette.PROPS),
        has_screen=bool(rng.random() < 0.5),
    )


def random_camera(rng: np.random.Generator, strength: float) -> Camera:
    """A random camera position; `strength` scales how much positions differ."""

    def jitter(deviation: float, limit: float) -> float:
        return float(np.clip(rng.normal(0, deviation * strength), -limit * strength, limit * strength))

    return Camera(
        zoom=float(np.exp(rng.normal(0.09, 0.03 * strength))),
        tilt=jitter(0.025, 0.07),
        shift=(jitter(0.018, 0.05), jitter(0.016, 0.04)),
    )


def random_light(rng: np.random.Generator, strength: float) -> Light:
    """Random light and sensor; `strength` scales how much colours and brightness differ."""
    angle = rng.uniform(-math.pi, 0)  # from above: the window, the windscreen or the camera's side
    return Light(
        exposure=float(np.exp(rng.normal(0.13, 0.16 * strength))),
        gamma=float(np.exp(rng.normal(0, 0.1 * strength))),
        warmth=float(rng.normal(0, 0.06 * strength)),
        direction=(math.cos(angle), math.sin(angle)),
        relief=float(rng.uniform(0.15, 0.4)),
        falloff=float(rng.uniform(0.1, 0.4)),
        haze=float(rng.beta(1, 5) * 0.4 * strength),
        saturation=float(rng.uniform(0.6, 1.1)),
        noise=float(rng.uniform(2, 7)),
        blur=float(rng.uniform(0, 0.7)),
    )

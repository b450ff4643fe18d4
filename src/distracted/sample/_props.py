"""Objects in hands: phone, cup, brush, lipstick. Each subject owns one of each."""

import math
from dataclasses import dataclass
from enum import Enum

import numpy as np

from distracted.sample import _palette as palette
from distracted.sample._canvas import Canvas, Point, oval, slab
from distracted.sample._palette import Colour, tone
from distracted.sample._poses import Hand, Prop

REACH = 0.03  # from the wrist to the centre of the grip, in units


Cup = Enum("Cup", "BEAKER CAN BOTTLE")


@dataclass(frozen=True)
class Belongings:
    """A subject's phone, cup and brush; sizes are in units."""

    phone: Colour
    phone_size: Point
    phone_lit: bool
    cup: Cup
    cup_colour: Colour
    lid_colour: Colour
    cup_size: Point
    brush: Colour


def random_belongings(rng: np.random.Generator) -> Belongings:
    """A random phone, cup and brush."""
    phone = float(rng.uniform(0.054, 0.07))
    kind = list(Cup)[rng.integers(len(Cup))]
    width = float(rng.uniform(0.08, 0.1)) if kind is Cup.BEAKER else float(rng.uniform(0.06, 0.072))
    return Belongings(
        phone=palette.pick(rng, palette.PROPS),
        phone_size=(phone, phone * float(rng.uniform(1.7, 2.1))),
        phone_lit=bool(rng.random() < 0.7),
        cup=kind,
        cup_colour=palette.pick(rng, palette.CUPS),
        lid_colour=palette.pick(rng, palette.PROPS),
        cup_size=(width, width * float({Cup.BEAKER: 1.7, Cup.CAN: 1.9, Cup.BOTTLE: 2.9}[kind])),
        brush=palette.pick(rng, palette.CUPS),
    )


def draw_prop(canvas: Canvas, wrist: Point, heading: float, hand: Hand, belongings: Belongings) -> None:
    """Draw the object in a hand; the caller draws the hand over it."""
    grip = (wrist[0] + REACH * math.cos(heading), wrist[1] + REACH * math.sin(heading))
    if hand.prop is Prop.PHONE:
        _draw_phone(canvas, grip, hand, belongings)
    elif hand.prop is Prop.CUP:
        _draw_cup(canvas, grip, hand, belongings)
    elif hand.prop in (Prop.BRUSH, Prop.LIPSTICK):
        _draw_tool(canvas, grip, hand, belongings)


def _along(origin: Point, angle: float, up: float, across: float = 0.0) -> Point:
    """The point `up` along the object's axis and `across` it, in units; angle 0 is upright."""
    return (
        origin[0] + up * math.sin(angle) + across * math.cos(angle),
        origin[1] - up * math.cos(angle) + across * math.sin(angle),
    )


def _draw_phone(canvas: Canvas, grip: Point, hand: Hand, belongings: Belongings) -> None:
    width, height = belongings.phone_size
    centre = _along(grip, hand.prop_angle, height * (0.1 + 0.4 * hand.prop_shown))
    canvas.fill(slab(centre, (width, height), hand.prop_angle), belongings.phone)
    screen = palette.SCREEN_GLOW if belongings.phone_lit else tone(palette.BLACK, 1.6)
    canvas.fill(slab(centre, (width * 0.82, height * 0.84), hand.prop_angle), screen)


def _draw_cup(canvas: Canvas, grip: Point, hand: Hand, belongings: Belongings) -> None:
    (width, height), angle, colour = belongings.cup_size, hand.prop_angle, belongings.cup_colour
    foot, rim = _along(grip, angle, -0.45 * height), _along(grip, angle, 0.55 * height)
    taper = 0.75 if belongings.cup is Cup.BEAKER else 1.0
    sides = [
        _along(foot, angle, 0, -width * taper / 2), _along(foot, angle, 0, width * taper / 2),
        _along(rim, angle, 0, width / 2), _along(rim, angle, 0, -width / 2),
    ]  # fmt: skip
    canvas.fill(sides, tone(colour, 0.85))
    lit = [sides[0], _along(foot, angle, 0, 0.1 * width), _along(rim, angle, 0, 0.1 * width), sides[3]]
    canvas.fill(lit, colour)
    canvas.fill(oval(rim, (width * 0.53, width * 0.17), angle), belongings.lid_colour)
    if belongings.cup is Cup.BOTTLE:
        canvas.limb(rim, _along(rim, angle, 0.3 * height), width * 0.4, width * 0.2, tone(colour, 1.1))
    elif belongings.cup is Cup.BEAKER:
        canvas.stroke([rim, _along(rim, angle, 0.05, 0.01)], 0.008, tone(belongings.lid_colour, 0.6))


def _draw_tool(canvas: Canvas, grip: Point, hand: Hand, belongings: Belongings) -> None:
    length = 0.13 if hand.prop is Prop.BRUSH else 0.06
    tip = _along(grip, hand.prop_angle, length * 0.75)
    canvas.stroke([_along(grip, hand.prop_angle, -length * 0.25), tip], 0.014, belongings.brush)
    if hand.prop is Prop.BRUSH:
        canvas.fill(slab(tip, (0.036, 0.06), hand.prop_angle), tone(belongings.brush, 0.6))
    else:
        canvas.fill(oval(tip, (0.012, 0.012)), (190, 40, 60))

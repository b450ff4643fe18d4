"""The car around the driver: windows, door, seat, wheel, dashboard and radio."""

import math

import numpy as np

from distracted.sample._canvas import Canvas, Pixels, Point, blob, oval, slab
from distracted.sample._palette import BLACK, SCREEN_GLOW, Colour, mix, tone
from distracted.sample._poses import wheel_point
from distracted.sample._scenery import LENGTH
from distracted.sample._traits import Car

MARGIN = 0.3  # how far outside of the frame to draw, so that a moved camera sees no edge
SCENERY_BOTTOM = 0.5
RIM_HALF_WIDTH = 0.014


def draw_shell(canvas: Canvas, car: Car, panorama: Pixels, travelled: float) -> None:
    """The scenery behind the windows, and the door and pillars around them.

    Args:
        travelled: Distance driven, in panorama lengths.
    """
    columns = panorama.shape[1]
    visible = round(columns / LENGTH * 1.15)
    start = round((travelled % 1.0) * (columns - visible))
    canvas.paste_top(np.ascontiguousarray(panorama[:, start : start + visible]), SCENERY_BOTTOM)
    top, sill, pillar = car.window_top, car.window_sill, car.pillar
    low, high = -MARGIN, 1 + MARGIN
    frame = [(low, low), (high, low), (high, high), (low, high)]
    side_window = blob(
        [(0.16, top + 0.05), (0.3, top), (pillar - 0.16, top + 0.01), (pillar - 0.03, sill - 0.06),
         (pillar - 0.04, sill), (0.4, sill + 0.012), (0.12, sill + 0.01), (0.10, sill - 0.05)], 4,
    )  # fmt: skip
    windscreen = [(pillar - 0.06, low), (high, low), (high, sill - 0.01), (pillar + 0.06, sill + 0.02)]
    rear_window = blob([(-0.3, top + 0.08), (0.04, top + 0.07), (0.05, sill - 0.02), (-0.3, sill)])
    canvas.fill_with_holes([frame, side_window, windscreen, rear_window], car.trim)
    canvas.stroke(side_window, 0.012, tone(car.trim, 0.45), closed=True)
    head, foot = (pillar - 0.085, low), (pillar + 0.03, sill + 0.03)
    post = [head, (head[0] + 0.04, head[1]), (foot[0] + 0.045, foot[1]), foot]
    canvas.fill(post, tone(car.trim, 1.2))
    door = [(0.05, sill + 0.03), (pillar + 0.05, sill + 0.03), (pillar + 0.05, 1.0), (0.05, 1.0)]
    canvas.fill(door, tone(car.trim, 0.82))
    armrest = [(0.45, sill + 0.13), (0.72, sill + 0.11), (0.74, sill + 0.17), (0.46, sill + 0.2)]
    canvas.fill(blob(armrest), tone(car.trim, 1.1))
    canvas.fill([(0.05, sill + 0.24), (0.8, sill + 0.22), (0.8, 1.0), (0.05, 1.0)], tone(car.trim, 0.62))


def draw_seat(canvas: Canvas, car: Car, slouch: float) -> None:
    """Backrest and headrest."""
    x = 0.5 * slouch
    backrest: list[Point] = [
        (0.10 + x, 0.37), (0.2 + x, 0.31), (0.33 + x, 0.33), (0.40 + x, 0.45), (0.40 + x, 0.9),
        (0.12, 0.95), (0.08, 0.7),
    ]  # fmt: skip
    canvas.fill(blob(backrest), tone(car.seat, 0.7))
    canvas.fill(blob([(px * 0.86 + 0.012, py + 0.02) for px, py in backrest]), car.seat)
    canvas.stroke([(0.17 + x, 0.4), (0.16 + x, 0.62), (0.17, 0.85)], 0.006, tone(car.seat, 0.6))
    if car.headrest:
        canvas.stroke([(0.22 + x, 0.25), (0.22 + x, 0.35)], 0.014, tone(car.trim, 0.5))
        canvas.ball((0.225 + x, 0.21), (0.065, 0.075), car.seat, angle=0.2)


def draw_wheel(canvas: Canvas, car: Car) -> None:
    """The dashboard's top and the steering wheel."""
    sill, right = car.window_sill, 1 + MARGIN
    near, far = (0.86, sill - 0.005), (right, sill - 0.02)
    dash = [(car.pillar + 0.03, sill + 0.04), near, far, (right, 1.0), (0.8, 1.0), (0.77, 0.6)]
    canvas.fill(dash, car.dash)
    canvas.fill([near, far, (right, sill + 0.06), (0.84, sill + 0.06)], tone(car.dash, 1.2))
    hub, (across, along) = car.wheel_centre, car.wheel_radii
    dark = _rim_colour(car)
    for degrees in (20, 160, 90):
        canvas.stroke([hub, wheel_point(car, degrees)], 0.022, tone(dark, 1.3))
    canvas.ball(hub, (across * 0.45, along * 0.36), tone(dark, 1.5), car.wheel_tilt)
    half_widths = RIM_HALF_WIDTH, -RIM_HALF_WIDTH
    rim = [oval(hub, (across + half, along + half), car.wheel_tilt) for half in half_widths]
    canvas.fill_with_holes(rim, dark)
    lit = (hub[0] - 0.003, hub[1] - 0.004)
    sheen = [oval(lit, (across + half, along + half), car.wheel_tilt) for half in (0.005, -0.002)]
    canvas.fill_with_holes(sheen, tone(dark, 2.0))


def draw_near_rim(canvas: Canvas, car: Car) -> None:
    """The part of the rim in front of the far arm."""
    arc = [wheel_point(car, degrees) for degrees in range(100, 237, 17)]
    canvas.stroke(arc, 2 * RIM_HALF_WIDTH, _rim_colour(car))


def _rim_colour(car: Car) -> Colour:
    return mix(tone(car.dash, 0.4), BLACK, 0.5)


def draw_console(canvas: Canvas, car: Car) -> None:
    """The centre console with the radio, and the gear lever; closest to the camera."""
    x, y = car.radio
    console: list[Point] = [
        (x - 0.075, y - 0.13), (x + 0.06, y - 0.15), (1.4, y - 0.1),
        (1.4, 1.1), (x - 0.02, 1.1), (x - 0.06, y + 0.1),
    ]  # fmt: skip
    canvas.fill(blob(console, 8), tone(car.dash, 0.9))
    angle = -0.08
    canvas.fill(slab((x, y), (0.115, 0.13), angle), tone(car.radio_colour, 0.6))
    canvas.fill(slab((x, y), (0.1, 0.115), angle), mix(car.radio_colour, BLACK, 0.7))
    screen = SCREEN_GLOW if car.has_screen else tone(car.radio_colour, 0.5)
    canvas.fill(slab((x, y - 0.025), (0.08, 0.045), angle), tone(screen, 0.8))
    for knob in (-0.032, 0.032):
        canvas.ball((x + knob, y + 0.03), (0.013, 0.013), tone(car.trim, 1.4))
    for row in (0.09, 0.105):
        canvas.stroke([(x - 0.045, y + row), (x + 0.05, y + row - 0.006)], 0.006, tone(car.dash, 0.5))
    canvas.stroke([(x - 0.11, 0.80), (x - 0.13, 0.715)], 0.014, tone(car.dash, 0.6))
    canvas.ball((x - 0.133, 0.70), (0.02, 0.024), tone(car.dash, 0.7))
    canvas.fill(oval((1.02, y - 0.21), (0.045, 0.03), math.radians(-10)), tone(car.dash, 0.45))

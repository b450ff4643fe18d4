"""The driver's head: an ellipsoid with features, rotated in three dimensions, drawn from back to front."""

import math

import numpy as np

from distracted.sample._canvas import Canvas, Point, blob, oval
from distracted.sample._palette import BLACK, LIP, WHITE, mix, tone
from distracted.sample._traits import Hair, Headgear, Person

RADIUS = 0.092  # of an average head, in units
FACE_HEIGHT = 1.22  # height of a head relative to its width


class Head:
    """Geometry of a head. Longitude and latitude are in degrees; 0, 0 is the tip of the nose.

    Args:
        centre: In the unit frame.
        radius: In units.
        yaw: Degrees; 0 faces the camera, 90 the road at the right.
        pitch: Degrees; above 0 looks up.
        roll: Degrees; above 0 tips the crown to the right.
    """

    def __init__(self, centre: Point, radius: float, *, yaw: float, pitch: float, roll: float) -> None:
        self.centre = centre
        self.radius = radius
        self.yaw = math.radians(yaw)
        self.pitch = math.radians(pitch)
        self.roll = math.radians(roll)

    def place(self, longitude: float, latitude: float, height: float = 1.0) -> tuple[Point, float]:
        """Project a place on the head: its point in the picture and how much it faces the camera (-1 to 1).

        Args:
            longitude: Above 0 is the driver's left.
            latitude: Above 0 is up.
            height: Distance from the centre, in radii.
        """
        lon, lat = math.radians(longitude), math.radians(latitude)
        right, up, forward = math.sin(lon) * math.cos(lat), math.sin(lat), math.cos(lon) * math.cos(lat)
        cos, sin = math.cos(self.pitch), math.sin(self.pitch)
        up, forward = up * cos + forward * sin, forward * cos - up * sin
        cos, sin = math.cos(self.yaw), math.sin(self.yaw)
        x, facing = right * cos + forward * sin, forward * cos - right * sin
        return self.at((x * height, -up * FACE_HEIGHT * height)), facing

    def at(self, offset: Point) -> Point:
        """The point `offset` radii from the centre in the picture, rotated with the head's roll."""
        cos, sin = math.cos(self.roll), math.sin(self.roll)
        x, y = offset
        return (
            self.centre[0] + (cos * x - sin * y) * self.radius,
            self.centre[1] + (sin * x + cos * y) * self.radius,
        )

    def outline(self, offsets: list[Point]) -> np.ndarray:
        """A smooth closed outline through points given in radii from the centre."""
        return blob([self.at(offset) for offset in offsets])


def draw_back_hair(canvas: Canvas, head: Head, person: Person) -> None:
    """Hair or hood behind neck and shoulders; to be drawn before the head."""
    back = -math.sin(head.yaw)
    dark = tone(person.hair, 0.8)
    if person.headgear is Headgear.HOOD:
        canvas.ball(head.at((0.25 * back, 0.15)), (head.radius * 1.28, head.radius * 1.5), person.shirt)
    elif person.hair_style is Hair.LONG:
        left, right = [(-0.95, -0.2), (-1.05, 1.0), (-0.9, 2.2)], [(0.75, 2.0), (0.9, 0.8), (0.8, -0.3)]
        strands = [*left, (0.0, 2.35), *right]
        canvas.fill(head.outline([(x + 0.35 * back, y) for x, y in strands]), dark)
    elif person.hair_style is Hair.BOB:
        canvas.ball(head.at((0.25 * back, 0.35)), (head.radius * 1.12, head.radius * 1.25), dark)
    elif person.hair_style is Hair.PONYTAIL:
        tail, facing = head.place(180, 15, 1.05)
        end = (tail[0] + 0.5 * back * head.radius, tail[1] + 1.9 * head.radius)
        if facing < 0.6:
            canvas.limb(tail, end, head.radius * 0.32, head.radius * 0.12, person.hair)


def draw_head(canvas: Canvas, head: Head, person: Person) -> None:
    """Skull, face, hair, glasses and headgear."""
    turned = math.sin(head.yaw)
    r = head.radius
    crown = person.skin if person.hair_style is Hair.BALD else person.hair
    canvas.ball(head.at((-0.1 * turned, -0.12)), (r * 0.98, r * FACE_HEIGHT * 0.92), crown)
    if math.cos(head.yaw) > -0.55:
        _draw_face(canvas, head, person)
    _draw_hair_line(canvas, head, person)
    _draw_ear(canvas, head, person)
    _draw_glasses(canvas, head, person)
    _draw_headgear(canvas, head, person)


def _draw_face(canvas: Canvas, head: Head, person: Person) -> None:
    r, skin = head.radius, person.skin
    forward = math.sin(head.yaw)
    canvas.ball(head.at((0.26 * forward, 0.16)), (r * 0.79, r * FACE_HEIGHT * 0.86), skin, head.roll)
    chin, _ = head.place(0, -58, 0.98)
    canvas.ball(chin, (r * 0.34, r * 0.26), tone(skin, 0.97))
    if person.beard:
        beard = mix(skin, person.hair, 0.35 + 0.6 * person.beard)
        for longitude in (-48, -24, 0, 24, 48):
            spot, facing = head.place(longitude, -46, 0.9)
            if facing > -0.25:
                canvas.fill(oval(spot, (r * 0.3, r * 0.34)), beard)
    _draw_eyes(canvas, head, person)
    for longitude, latitude, size in ((0, 8, 0.09), (0, -2, 0.13), (0, -9, 0.16)):
        spot, facing = head.place(longitude, latitude, 1.07)
        if facing > -0.45:
            canvas.ball(spot, (r * size, r * size * 1.2), tone(skin, 1.03))
    mouth = [head.place(longitude, -33, 0.98) for longitude in (-20, -7, 7, 20)]
    visible = [spot for spot, facing in mouth if facing > -0.05]
    if len(visible) > 1:
        canvas.stroke(visible, 0.12 * r, mix(skin, LIP, 0.75))


def _draw_eyes(canvas: Canvas, head: Head, person: Person) -> None:
    r = head.radius
    for longitude in (-27, 27):
        eye, facing = head.place(longitude, 12, 0.98)
        if facing < 0.02:
            continue
        narrow = 0.35 + 0.65 * facing
        canvas.fill(oval(eye, (0.15 * r * narrow, 0.085 * r)), mix(WHITE, person.skin, 0.3))
        canvas.fill(oval(eye, (0.075 * r * narrow, 0.085 * r)), BLACK)
        brow = [head.place(longitude + step, 24, 1.0)[0] for step in (-13, 0, 13)]
        canvas.stroke(brow, 0.07 * r, tone(mix(person.hair, person.skin, 0.25), 0.8))


def _draw_hair_line(canvas: Canvas, head: Head, person: Person) -> None:
    """Hair over forehead and temples; without it the face looks like a mask."""
    if person.hair_style is Hair.BALD:
        return
    r = head.radius
    fringe = 46 if person.hair_style in (Hair.SHORT, Hair.PONYTAIL) else 36
    reach = -62.0 if person.hair_style in (Hair.SHORT, Hair.PONYTAIL, Hair.CURLY) else -50.0
    for longitude in np.linspace(reach, -reach, 7):
        lock, facing = head.place(float(longitude), fringe + 18 - 0.004 * float(longitude) ** 2, 0.95)
        if facing > -0.4:
            canvas.fill(oval(lock, (r * 0.26, r * 0.24)), tone(person.hair, 0.95))
    sideburn, facing = head.place(-84, 12, 0.82)
    if facing > 0 and person.headgear is not Headgear.HOOD:
        length = 0.75 if person.hair_style in (Hair.BOB, Hair.LONG) else 0.42
        canvas.fill(oval(sideburn, (r * 0.28 * facing, r * length)), tone(person.hair, 0.95))
    if person.hair_style is Hair.CURLY:
        for turn in np.linspace(-math.pi * 1.1, 0.1 * math.pi, 9):
            x, y = 0.95 * math.cos(turn) - 0.15 * math.sin(head.yaw), 1.05 * math.sin(turn) - 0.15
            canvas.ball(head.at((x, y)), (r * 0.3, r * 0.28), person.hair)


def _draw_ear(canvas: Canvas, head: Head, person: Person) -> None:
    covered = person.hair_style in (Hair.BOB, Hair.LONG) or person.headgear is Headgear.HOOD
    for longitude in (-94, 94):
        ear, facing = head.place(longitude, 2, 0.95)
        if facing > -0.15 and not covered:
            radii = (head.radius * (0.1 + 0.1 * max(facing, 0)), head.radius * 0.24)
            canvas.fill(oval(ear, radii), tone(person.skin, 0.82))
            canvas.fill(oval(ear, (radii[0] * 0.6, radii[1] * 0.65)), tone(person.skin, 0.95))


def _draw_glasses(canvas: Canvas, head: Head, person: Person) -> None:
    if person.glasses is None:
        return
    r = head.radius
    for side in (-1, 1):
        lens, facing = head.place(27 * side, 10, 1.04)
        if facing < -0.05:
            continue
        outline = oval(lens, (r * (0.1 + 0.18 * facing), r * 0.2))
        if person.dark_glasses:
            canvas.fill(outline, tone(person.glasses, 0.25))
        canvas.stroke(outline, 0.05 * r, person.glasses, closed=True)
        hinge, _ = head.place(44 * side, 12, 1.0)
        ear, ear_facing = head.place(90 * side, 8, 0.95)
        if ear_facing > 0:
            canvas.stroke([hinge, ear], 0.06 * r, person.glasses)


def _draw_headgear(canvas: Canvas, head: Head, person: Person) -> None:
    r, colour, forward = head.radius, person.headgear_colour, math.sin(head.yaw)
    dome: list[Point] = [(-1.1, -0.3), (-0.95, -0.95), (0.0, -1.35), (0.9, -1.0), (1.02, -0.42), (0.0, -0.5)]
    if person.headgear in (Headgear.CAP, Headgear.BEANIE):
        canvas.fill(head.outline(dome), colour)
        canvas.fill(head.outline([(x * 0.6 + 0.1, y * 0.8 - 0.22) for x, y in dome]), tone(colour, 1.15))
    if person.headgear is Headgear.CAP:
        tip, _ = head.place(0, 26, 1.75)
        left, _ = head.place(-38, 32, 1.0)
        right, _ = head.place(38, 32, 1.0)
        canvas.fill(blob([left, tip, right]), tone(colour, 0.75))
    elif person.headgear is Headgear.BEANIE:
        brim = [head.at((-1.05, -0.38)), head.at((0.1 * forward, -0.5)), head.at((1.0, -0.45))]
        canvas.stroke(brim, 0.3 * r, tone(colour, 0.8))
    elif person.headgear is Headgear.HOOD:
        turns = np.linspace(1.6, 5.2, 9)
        rim = [head.at((-0.55 * forward + 1.1 * math.cos(t), 1.3 * math.sin(t))) for t in turns]
        canvas.stroke(rim, 0.36 * r, tone(person.shirt, 0.9))

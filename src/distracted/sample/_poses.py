"""Random poses of a class and a person: positions of head and hands, and the objects in the hands."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np

from distracted.sample._canvas import Point
from distracted.sample._habits import Habits
from distracted.sample._traits import Car

# Positions of an average driver's hands in the unit frame; near is the driver's right side, far the left.
LAP: Point = (0.56, 0.66)
GEAR_LEVER: Point = (0.70, 0.70)
CHEST: Point = (0.60, 0.42)
PHONE_LOW_NEAR: Point = (0.60, 0.63)
PHONE_LOW_FAR: Point = (0.63, 0.54)
RAISED_PALM: Point = (0.54, 0.37)
BESIDE_SEAT: Point = (0.17, 0.58)
BEHIND_SEAT: Point = (0.08, 0.36)
DOOR_REST: Point = (0.57, 0.30)


Prop = Enum("Prop", "NONE PHONE CUP BRUSH LIPSTICK")
#: Origin of a hand's position: the unit frame, or the head (then in head radii).
Anchor = Enum("Anchor", "CAR HEAD")


@dataclass(frozen=True)
class Hand:
    """The target of a hand and the object in it."""

    position: Point
    anchor: Anchor = Anchor.CAR
    prop: Prop = Prop.NONE
    prop_angle: float = 0.0  # radians, 0 upright
    prop_shown: float = 0.7
    foreshortening: float = 1.0  # visible fraction of the arm's length


@dataclass(frozen=True)
class Pose:
    """A driver at one moment; angles in degrees."""

    near: Hand
    far: Hand
    yaw: float  # 0 faces the camera, 90 the road
    pitch: float = 0.0  # above 0 looks up
    roll: float = 0.0  # above 0 tips toward the road
    lean: Point = (0.0, 0.0)  # shift of the shoulders, units


def wheel_point(car: Car, degrees: float) -> Point:
    """A point on the steering wheel's rim; 0 points to the road, 270 up."""
    angle = math.radians(degrees)
    x, y = math.cos(angle) * car.wheel_radii[0], math.sin(angle) * car.wheel_radii[1]
    cos, sin = math.cos(car.wheel_tilt), math.sin(car.wheel_tilt)
    return car.wheel_centre[0] + cos * x - sin * y, car.wheel_centre[1] + sin * x + cos * y


def random_pose(label: int, habits: Habits, car: Car, rng: np.random.Generator) -> Pose:
    """A random mean pose for a clip of class `label`."""
    gaze = habits.gaze + rng.normal(0, habits.wander)
    near_grip, far_grip = rng.normal(habits.near_grip, 9), rng.normal(habits.far_grip, 8)
    driving = Pose(
        near=Hand(wheel_point(car, near_grip)),
        far=Hand(wheel_point(car, far_grip)),
        yaw=gaze,
        pitch=float(rng.normal(0, 3)),
        roll=float(rng.normal(0, 3)),
        lean=(float(rng.normal(0, 0.008)), float(rng.normal(0, 0.006))),
    )
    return _POSERS[label](driving, habits, car, rng)


def between(start: Point, end: Point, share: float) -> Point:
    """The point a fraction `share` of the way from `start` to `end`."""
    return start[0] + (end[0] - start[0]) * share, start[1] + (end[1] - start[1]) * share


def _near(rng: np.random.Generator, point: Point, spread: float = 0.012) -> Point:
    return float(rng.normal(point[0], spread)), float(rng.normal(point[1], spread))


def _happens(rng: np.random.Generator, chance: float) -> bool:
    return bool(rng.random() < chance)


def _safe_driving(pose: Pose, habits: Habits, car: Car, rng: np.random.Generator) -> Pose:
    if _happens(rng, habits.one_handed):
        pose = replace(pose, near=Hand(_near(rng, between(LAP, GEAR_LEVER, habits.rest), 0.02)))
    elif habits.leans_on_door and _happens(rng, 0.5):
        pose = replace(pose, far=Hand(_near(rng, DOOR_REST), foreshortening=0.85))
    return pose


def _rest_near(pose: Pose, habits: Habits, rng: np.random.Generator) -> Pose:
    """Some people also take the free near hand off the wheel."""
    if _happens(rng, habits.one_handed * 0.5):
        return replace(pose, near=Hand(_near(rng, between(LAP, GEAR_LEVER, habits.rest), 0.02)))
    return pose


def _phone_in_view(low: Point, high: Point, habits: Habits, rng: np.random.Generator) -> Hand:
    height = float(np.clip(rng.normal(habits.phone_height, 0.08), 0, 1))
    angle = float(rng.normal(0.35, 0.2))
    return Hand(_near(rng, between(low, high, height)), Anchor.CAR, Prop.PHONE, angle, habits.phone_shown)


def _looks_down(pose: Pose, habits: Habits, amount: float) -> Pose:
    return replace(pose, yaw=pose.yaw - 12 * amount, pitch=pose.pitch - (6 + 24 * habits.text_gaze) * amount)


def _texting_near(pose: Pose, habits: Habits, car: Car, rng: np.random.Generator) -> Pose:
    high = between(CHEST, wheel_point(car, 190), 0.65)
    return _looks_down(replace(pose, near=_phone_in_view(PHONE_LOW_NEAR, high, habits, rng)), habits, 1.0)


def _texting_far(pose: Pose, habits: Habits, car: Car, rng: np.random.Generator) -> Pose:
    far = _phone_in_view(PHONE_LOW_FAR, between(CHEST, wheel_point(car, 265), 0.8), habits, rng)
    return _looks_down(_rest_near(replace(pose, far=far), habits, rng), habits, 0.8)


def _call(ear: Point, mouth: Point, habits: Habits, rng: np.random.Generator) -> Hand:
    spot = _near(rng, between(ear, mouth, habits.ear_spread), 0.06)
    angle = math.radians(float(rng.normal(160, 9)) - 60 * habits.ear_spread)
    return Hand(spot, Anchor.HEAD, Prop.PHONE, angle, habits.phone_shown * 0.5, foreshortening=0.84)


def _calling_near(pose: Pose, habits: Habits, car: Car, rng: np.random.Generator) -> Pose:
    near = _call((-0.22, 0.25), (0.75, 0.95), habits, rng)
    return replace(pose, near=near, roll=pose.roll - 8 * habits.call_shrug)


def _calling_far(pose: Pose, habits: Habits, car: Car, rng: np.random.Generator) -> Pose:
    far = replace(_call((1.2, 0.3), (1.4, 0.85), habits, rng), foreshortening=1.0)
    pose = replace(pose, far=far, roll=pose.roll + 8 * habits.call_shrug, pitch=pose.pitch + 5)
    return _rest_near(pose, habits, rng)


def _operating_radio(pose: Pose, habits: Habits, car: Car, rng: np.random.Generator) -> Pose:
    low, high = (car.radio[0] - 0.05, car.radio[1] + 0.05), (car.radio[0] - 0.03, car.radio[1] - 0.05)
    near = Hand(_near(rng, between(low, high, habits.radio_reach), 0.015))
    look = habits.radio_look
    pitch, lean = pose.pitch - 14 * look, (pose.lean[0] + 0.03, pose.lean[1] + 0.01)
    return replace(pose, near=near, yaw=pose.yaw - 14 * look, pitch=pitch, lean=lean)


def _drinking(pose: Pose, habits: Habits, car: Car, rng: np.random.Generator) -> Pose:
    if _happens(rng, habits.sip):
        spot, angle = _near(rng, (1.25, 0.75), 0.07), float(rng.normal(-0.5, 0.15))
        hand = Hand(spot, Anchor.HEAD, Prop.CUP, angle, 1.0, 0.86)
        pose = replace(pose, pitch=pose.pitch + float(rng.uniform(2, 14)))
    else:
        spot = _near(rng, between(CHEST, LAP, float(rng.uniform(0, 0.5))), 0.015)
        hand = Hand(spot, Anchor.CAR, Prop.CUP, float(rng.normal(-0.1, 0.1)), 1.0)
    if _happens(rng, habits.cup_far):
        return _rest_near(replace(pose, far=hand), habits, rng)
    return replace(pose, near=hand)


def _reaching_behind(pose: Pose, habits: Habits, car: Car, rng: np.random.Generator) -> Pose:
    near = Hand(_near(rng, between(BESIDE_SEAT, BEHIND_SEAT, habits.reach_depth), 0.02))
    turn = float(np.clip(rng.normal(habits.reach_turn, 0.1), 0, 1))
    lean = (pose.lean[0] - 0.05 * turn, pose.lean[1] + 0.02)
    return replace(pose, near=near, yaw=pose.yaw - 20 - 95 * turn, pitch=pose.pitch - 8 * turn, lean=lean)


def _hair_and_makeup(pose: Pose, habits: Habits, car: Car, rng: np.random.Generator) -> Pose:
    spots = [(0.0, 0.95, 0.5), (0.45, 0.45, -0.45), (1.0, -0.1, -1.05)]  # habit; x and y in head radii
    habit, xs, ys = zip(*spots, strict=True)
    wanted = float(np.clip(rng.normal(habits.makeup_spot, 0.1), 0, 1))
    spot = _near(rng, (float(np.interp(wanted, habit, xs)), float(np.interp(wanted, habit, ys))), 0.06)
    tool = Prop.NONE
    if _happens(rng, habits.makeup_tool):
        tool = Prop.LIPSTICK if wanted < 0.35 else Prop.BRUSH
    angle = float(rng.normal(-0.9, 0.3))
    pitch, yaw = pose.pitch + float(rng.uniform(6, 18)), pose.yaw - float(rng.uniform(0, 10))
    pose = replace(pose, pitch=pitch, yaw=yaw)
    if _happens(rng, habits.makeup_far):
        far = Hand((spot[0] + 0.5, spot[1]), Anchor.HEAD, tool, -angle, 1.0, foreshortening=0.86)
        return _rest_near(replace(pose, far=far), habits, rng)
    return replace(pose, near=Hand(spot, Anchor.HEAD, tool, angle, 1.0, foreshortening=0.86))


def _talking(pose: Pose, habits: Habits, car: Car, rng: np.random.Generator) -> Pose:
    turn = float(np.clip(rng.normal(habits.talk_turn, 0.12), 0, 1))
    pose = _safe_driving(pose, habits, car, rng)
    if _happens(rng, habits.talk_gesture):
        pose = replace(pose, near=Hand(_near(rng, RAISED_PALM, 0.025)))
    lean = (pose.lean[0] - 0.055 * turn, pose.lean[1] + 0.01)
    return replace(pose, yaw=pose.yaw - 44 - 46 * turn, pitch=pose.pitch + float(rng.normal(1, 3)), lean=lean)


_Poser = Callable[[Pose, Habits, Car, np.random.Generator], Pose]
_POSERS: tuple[_Poser, ...] = (  # by label, c0 to c9
    _safe_driving,
    _texting_near,
    _calling_near,
    _texting_far,
    _calling_far,
    _operating_radio,
    _drinking,
    _reaching_behind,
    _hair_and_makeup,
    _talking,
)
NUM_CLASSES = len(_POSERS)

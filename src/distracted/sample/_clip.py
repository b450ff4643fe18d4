"""A clip: frames of a pose that drifts as in a video."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from distracted.sample._cabin import draw_console, draw_near_rim, draw_seat, draw_shell, draw_wheel
from distracted.sample._canvas import Camera, Canvas, Pixels, Point
from distracted.sample._driver import draw_far_arm, draw_legs, draw_near_arm, draw_torso, pose_body
from distracted.sample._head import draw_back_hair, draw_head
from distracted.sample._poses import Pose, random_pose
from distracted.sample._scenery import draw_panorama
from distracted.sample._sensor import Floats, Sensor, random_grain
from distracted.sample._subject import Nuisance, Subject, random_subject

MEMORY = 0.9  # fraction of a frame's deviation that carries over to the next
MAX_SPEED = 0.025  # panorama lengths per frame
SHAKE, MAX_SHAKE = 0.4, 1.5  # mean and maximum motion blur, pixels at a width of 320


class Drift(NamedTuple):
    """A frame's deviation from the clip's mean pose; positions in units, angles in degrees."""

    near_x: float
    near_y: float
    far_x: float
    far_y: float
    yaw: float
    pitch: float
    roll: float
    lean_x: float
    lean_y: float
    shift_x: float
    shift_y: float
    tilt: float
    exposure: float


# Standard deviations of the step from one frame to the next
_HANDS, _TURNS, _LEAN, _SHIFT = (0.004,) * 4, (2.0, 1.0, 0.8), (0.0025, 0.0015), (0.0015, 0.0015)
STEPS = Drift(*_HANDS, *_TURNS, *_LEAN, *_SHIFT, tilt=0.002, exposure=0.02)


@dataclass(frozen=True)
class Stage:
    """A subject, and the panorama and sensor noise that all of its clips share: they are slow to make."""

    subject: Subject
    width: int
    panorama: Pixels
    grain: Floats


def make_stage(width: int, nuisance: Nuisance, rng: np.random.Generator) -> Stage:
    """A random subject, ready to be rendered `width` pixels wide."""
    subject = random_subject(rng, nuisance)
    panorama = draw_panorama(subject.scenery, width, rng)
    return Stage(subject, width, panorama, random_grain(width, subject.light, rng))


def render_clip(stage: Stage, label: int, *, num_frames: int, rng: np.random.Generator) -> Iterator[Pixels]:
    """The frames of one clip in order, uint8 RGB, shape (0.75 * width, width, 3)."""
    subject, light = stage.subject, stage.subject.light
    pose = random_pose(label, subject.habits, subject.car, rng)
    sensor = Sensor(stage.width, light, stage.grain, rng)
    travelled, speed = rng.uniform(), rng.uniform(0, MAX_SPEED)
    for frame, drift in enumerate(_drifts(num_frames, rng)):
        camera = _shaken(subject.camera, drift)
        canvas = Canvas(stage.width, camera, light=light.direction, relief=light.relief)
        _draw_scene(canvas, subject, _drifted(pose, drift), stage.panorama, travelled + frame * speed)
        shake = min(float(rng.exponential(SHAKE)), MAX_SHAKE)
        yield sensor.develop(canvas.pixels, float(np.exp(drift.exposure)), shake, rng)


def _draw_scene(canvas: Canvas, subject: Subject, pose: Pose, panorama: Pixels, travelled: float) -> None:
    """Draw from back to front."""
    person, car, belongings = subject.person, subject.car, subject.belongings
    body = pose_body(person, pose)
    draw_shell(canvas, car, panorama, travelled)
    draw_seat(canvas, car, person.slouch)
    draw_back_hair(canvas, body.head, person)
    draw_wheel(canvas, car)
    draw_far_arm(canvas, body, person, belongings)
    draw_near_rim(canvas, car)
    draw_legs(canvas, body, person)
    draw_torso(canvas, body, person, car.belt)
    draw_head(canvas, body.head, person)
    draw_console(canvas, car)
    draw_near_arm(canvas, body, person, belongings)


def _drifts(num_frames: int, rng: np.random.Generator) -> Iterator[Drift]:
    """A mean-reverting random walk."""
    state = rng.normal(size=len(STEPS)) * STEPS
    for _ in range(num_frames):
        yield Drift(*state.tolist())
        state = MEMORY * state + rng.normal(size=len(STEPS)) * STEPS


def _shaken(camera: Camera, drift: Drift) -> Camera:
    shift = _moved(camera.shift, drift.shift_x, drift.shift_y)
    return replace(camera, tilt=camera.tilt + drift.tilt, shift=shift)


def _drifted(pose: Pose, drift: Drift) -> Pose:
    return Pose(
        near=replace(pose.near, position=_moved(pose.near.position, drift.near_x, drift.near_y)),
        far=replace(pose.far, position=_moved(pose.far.position, drift.far_x, drift.far_y)),
        yaw=pose.yaw + drift.yaw,
        pitch=pose.pitch + drift.pitch,
        roll=pose.roll + drift.roll,
        lean=_moved(pose.lean, drift.lean_x, drift.lean_y),
    )


def _moved(point: Point, x: float, y: float) -> Point:
    return point[0] + x, point[1] + y

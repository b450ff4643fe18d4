"""A clip: frames of a pose that drifts as in a video."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from distracted.sample._cabin import draw_console, draw_near_rim, draw_seat, draw_shell, draw_wheel
from distracted.sample._canvas import Camera, Canvas, Pixels
from distracted.sample._driver import draw_far_arm, draw_legs, draw_near_arm, draw_torso, pose_body
from distracted.sample._head import draw_back_hair, draw_head
from distracted.sample._poses import Hand, Pose, random_pose
from distracted.sample._scenery import draw_panorama
from distracted.sample._sensor import Floats, Sensor, random_grain
from distracted.sample._subject import Nuisance, Subject, random_subject

MEMORY = 0.9  # fraction of a frame's deviation that carries over to the next
MAX_SPEED = 0.025  # panorama lengths per frame
SHAKE, MAX_SHAKE = 0.4, 1.5  # mean and maximum motion blur, pixels at a width of 320


@dataclass(frozen=True)
class Drift:
    """A frame's deviation from the clip's mean pose; positions in units, angles in degrees."""

    near: tuple[float, float]
    far: tuple[float, float]
    yaw: float
    pitch: float
    roll: float
    lean: tuple[float, float]
    shift: tuple[float, float]
    tilt: float
    exposure: float


# Standard deviations of the step from one frame to the next
_HAND, _LEAN, _SHIFT = (0.004, 0.004), (0.0025, 0.0015), (0.0015, 0.0015)
STEPS = Drift(_HAND, _HAND, yaw=2.0, pitch=1.0, roll=0.8, lean=_LEAN, shift=_SHIFT, tilt=0.002, exposure=0.02)


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
    steps = np.hstack(list(vars(STEPS).values()))
    state = rng.normal(size=steps.size) * steps
    for _ in range(num_frames):
        yield _as_drift(state)
        state = MEMORY * state + rng.normal(size=steps.size) * steps


def _as_drift(state: npt.NDArray[np.float64]) -> Drift:
    near_x, near_y, far_x, far_y, yaw, pitch, roll, *rest = state.tolist()
    lean_x, lean_y, shift_x, shift_y, tilt, exposure = rest
    lean, shift = (lean_x, lean_y), (shift_x, shift_y)
    return Drift((near_x, near_y), (far_x, far_y), yaw, pitch, roll, lean, shift, tilt, exposure)


def _shaken(camera: Camera, drift: Drift) -> Camera:
    shift = (camera.shift[0] + drift.shift[0], camera.shift[1] + drift.shift[1])
    return replace(camera, tilt=camera.tilt + drift.tilt, shift=shift)


def _drifted(pose: Pose, drift: Drift) -> Pose:
    return Pose(
        near=_moved(pose.near, drift.near),
        far=_moved(pose.far, drift.far),
        yaw=pose.yaw + drift.yaw,
        pitch=pose.pitch + drift.pitch,
        roll=pose.roll + drift.roll,
        lean=(pose.lean[0] + drift.lean[0], pose.lean[1] + drift.lean[1]),
    )


def _moved(hand: Hand, by: tuple[float, float]) -> Hand:
    return replace(hand, position=(hand.position[0] + by[0], hand.position[1] + by[1]))

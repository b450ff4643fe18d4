"""The driver: joints from a pose; arms, torso, legs and the objects in the hands."""

import math
from dataclasses import dataclass

from distracted.sample._canvas import Canvas, Point, blob, capsule, slab
from distracted.sample._head import RADIUS, Head
from distracted.sample._palette import Colour, tone
from distracted.sample._poses import Anchor, Hand, Pose, Prop, between
from distracted.sample._props import Belongings, draw_prop
from distracted.sample._traits import Pattern, Person

# An average driver's joints in the unit frame.
HIP: Point = (0.30, 0.76)
KNEE: Point = (0.72, 0.74)
NEAR_SHOULDER: Point = (0.305, 0.385)
FAR_SHOULDER: Point = (0.455, 0.365)
NECK: Point = (0.385, 0.335)
HEAD: Point = (0.415, 0.205)
SEAT_HEIGHT = 0.80  # the fixed point when a driver's height is scaled

UPPER_ARM, FOREARM = 0.235, 0.225
SHOULDER_RADIUS, ELBOW_RADIUS, WRIST_RADIUS = 0.054, 0.040, 0.027
HAND_RADIUS = 0.036
MAX_STRETCH = 1.2  # a hand near the camera appears farther from the shoulder than an arm is long


@dataclass(frozen=True)
class Arm:
    """Joints of one arm and its hand."""

    shoulder: Point
    elbow: Point
    wrist: Point
    hand: Hand

    @property
    def slope(self) -> float:
        """Direction of the upper arm, radians."""
        return math.atan2(self.elbow[1] - self.shoulder[1], self.elbow[0] - self.shoulder[0])

    @property
    def heading(self) -> float:
        """Direction of the forearm, radians."""
        return math.atan2(self.wrist[1] - self.elbow[1], self.wrist[0] - self.elbow[0])


@dataclass(frozen=True)
class Body:
    """A driver's joints at one moment."""

    near: Arm
    far: Arm
    neck: Point
    hip: Point
    head: Head


def pose_body(person: Person, pose: Pose) -> Body:
    """A person's joints in a pose; a hand stops at arm's length if its target is out of reach."""

    def joint(average: Point, mobility: float = 1.0) -> Point:
        x = average[0] + mobility * (person.slouch + pose.lean[0])
        y = SEAT_HEIGHT - (SEAT_HEIGHT - average[1]) * person.height + mobility * pose.lean[1]
        return x, y

    centre = joint(HEAD)
    centre = (centre[0] + 0.0012 * pose.roll, centre[1] - 0.0002 * pose.pitch)
    head = Head(centre, RADIUS * person.head_size, yaw=pose.yaw, pitch=pose.pitch, roll=pose.roll)
    return Body(
        near=_bend(joint(NEAR_SHOULDER), pose.near, head),
        far=_bend(joint(FAR_SHOULDER), pose.far, head),
        neck=joint(NECK),
        hip=joint(HIP, mobility=0.3),
        head=head,
    )


def _bend(shoulder: Point, hand: Hand, head: Head) -> Arm:
    """Two-bone inverse kinematics; the elbow hangs below a forward reach and in front of a raised hand."""
    x, y = hand.position if hand.anchor is Anchor.CAR else head.at(hand.position)
    dx, dy = x - shoulder[0], y - shoulder[1]
    needed = math.hypot(dx, dy) / (UPPER_ARM + FOREARM) * 1.01
    scale = min(max(hand.foreshortening, needed), MAX_STRETCH)
    upper, fore = UPPER_ARM * scale, FOREARM * scale
    distance = min(max(math.hypot(dx, dy), 0.06), (upper + fore) * 0.995)
    heading = math.atan2(dy, dx)
    cosine = (upper**2 + distance**2 - fore**2) / (2 * upper * distance)
    side = -1 if dx < -0.05 else 1  # behind the body the elbow bends the other way
    angle = heading + side * math.acos(min(1.0, max(-1.0, cosine)))
    elbow = (shoulder[0] + upper * math.cos(angle), shoulder[1] + upper * math.sin(angle))
    wrist = (shoulder[0] + distance * math.cos(heading), shoulder[1] + distance * math.sin(heading))
    return Arm(shoulder, elbow, wrist, hand)


def draw_far_arm(canvas: Canvas, body: Body, person: Person, belongings: Belongings) -> None:
    """The driver's left arm: behind torso and head, so a little darker."""
    _draw_arm(canvas, body.far, person, belongings, dim=0.86)


def draw_near_arm(canvas: Canvas, body: Body, person: Person, belongings: Belongings) -> None:
    """The driver's right arm and its shadow on the torso; over everything else."""
    arm = body.near
    shadow = [(p[0] + 0.012, p[1] + 0.03) for p in (arm.shoulder, arm.elbow, arm.wrist)]
    bones = [capsule(shadow[0], shadow[1], 0.05, 0.04), capsule(shadow[1], shadow[2], 0.04, 0.028)]
    canvas.shade(bones, 0.35, 0.03)
    _draw_arm(canvas, arm, person, belongings, dim=1.0)


def draw_legs(canvas: Canvas, body: Body, person: Person) -> None:
    """Both thighs, at the lower edge of the picture."""
    far_hip, far_knee = (body.hip[0] + 0.1, body.hip[1] - 0.02), (KNEE[0] + 0.03, KNEE[1] - 0.035)
    canvas.limb(far_hip, far_knee, 0.085, 0.065, tone(person.legs, 0.8))
    canvas.limb(body.hip, KNEE, 0.1 * person.girth, 0.075, person.legs)


def draw_torso(canvas: Canvas, body: Body, person: Person, belt: Colour) -> None:
    """Neck, trunk, the shirt's pattern and the seat belt."""
    near, far, hip, girth = body.near.shoulder, body.far.shoulder, body.hip, person.girth
    belly = (hip[0] + 0.06 + 0.13 * girth, hip[1] - 0.17)
    outline: list[Point] = [
        (body.neck[0] - 0.045, body.neck[1] - 0.005), (body.neck[0] + 0.04, body.neck[1] + 0.005),
        (far[0] + 0.025, far[1] - 0.005), (far[0] + 0.04, far[1] + 0.11),
        belly, (belly[0] - 0.03, hip[1] + 0.02), (hip[0] - 0.09 * girth, hip[1] + 0.02),
        (near[0] - 0.07 * girth, near[1] + 0.2), (near[0] - 0.045, near[1] + 0.03),
    ]  # fmt: skip
    trunk = blob(outline)
    canvas.fill(trunk, person.shirt)
    _draw_pattern(canvas, body, person, belly)
    front = [far, (far[0] + 0.07, far[1] + 0.1), (belly[0] + 0.03, belly[1]), (belly[0] - 0.05, belly[1])]
    canvas.shade([blob(front)], 0.35, 0.04)
    neck, head = body.neck, body.head.centre
    canvas.limb(neck, (head[0] - 0.012, head[1] + 0.06), 0.052, 0.047, tone(person.skin, 0.86))
    x, y = neck
    collar = [(x - 0.05, y - 0.008), (x + 0.015, y + 0.022), (x + 0.05, y)]
    canvas.stroke(collar, 0.010, tone(person.accent if person.pattern is Pattern.VEST else person.shirt, 0.8))
    canvas.stroke([(far[0] - 0.01, far[1] - 0.02), (hip[0] + 0.03, hip[1] - 0.02)], 0.022, belt)
    chin = body.head.at((0.15, 1.45))
    canvas.shade([capsule(chin, (chin[0] - 0.03, chin[1] + 0.01), 0.05, 0.04)], 0.35, 0.03)


def _draw_pattern(canvas: Canvas, body: Body, person: Person, belly: Point) -> None:
    near, far, hip = body.near.shoulder, body.far.shoulder, body.hip
    if person.pattern in (Pattern.STRIPES, Pattern.CHECKS):
        for share in (0.15, 0.32, 0.49, 0.66, 0.83):
            left = between((near[0] - 0.05, near[1]), (hip[0] - 0.08, hip[1]), share)
            canvas.stroke([left, between(far, belly, share)], 0.018, person.accent)
    if person.pattern is Pattern.CHECKS:
        for share in (0.2, 0.4, 0.6, 0.8):
            line = [between(near, far, share), between(hip, belly, share)]
            canvas.stroke(line, 0.012, tone(person.accent, 0.8))
    if person.pattern is Pattern.VEST:
        middle, side = between(near, far, 0.8), (far[0] + 0.02, far[1] + 0.02)
        canvas.fill([middle, side, belly, (belly[0] - 0.06, belly[1] + 0.03)], person.accent)


def _draw_arm(canvas: Canvas, arm: Arm, person: Person, belongings: Belongings, dim: float) -> None:
    shirt, skin = tone(person.shirt, dim), tone(person.skin, dim)
    radii = SHOULDER_RADIUS, ELBOW_RADIUS, WRIST_RADIUS
    shoulder, elbow, wrist = (radius * person.arm_thickness for radius in radii)
    covered = person.sleeve * 2  # in bones: 1 covers the upper arm, 2 the forearm too
    canvas.limb(arm.shoulder, arm.elbow, shoulder, elbow, shirt if covered >= 1 else skin)
    canvas.limb(arm.elbow, arm.wrist, elbow, wrist, skin)
    if covered >= 1:
        cuff = between(arm.elbow, arm.wrist, covered - 1)
        canvas.limb(arm.elbow, cuff, elbow * 1.06, wrist * 1.15, shirt)
    else:
        cuff = between(arm.shoulder, arm.elbow, covered)
        canvas.limb(arm.shoulder, cuff, shoulder * 1.05, elbow * 1.15, shirt)
    if person.pattern is Pattern.STRIPES:
        band = between(arm.shoulder, arm.elbow, 0.35)
        canvas.fill(slab(band, (0.016, 1.6 * shoulder), arm.slope), tone(person.accent, dim))
    if arm.hand.prop is not Prop.CUP:
        draw_prop(canvas, arm.wrist, arm.heading, arm.hand, belongings)
    _draw_hand(canvas, arm, skin)
    if arm.hand.prop is Prop.CUP:  # over the fingers
        draw_prop(canvas, arm.wrist, arm.heading, arm.hand, belongings)


def _draw_hand(canvas: Canvas, arm: Arm, skin: Colour) -> None:
    cos, sin = math.cos(arm.heading), math.sin(arm.heading)
    palm = (arm.wrist[0] + 0.6 * HAND_RADIUS * cos, arm.wrist[1] + 0.6 * HAND_RADIUS * sin)
    canvas.ball(palm, (HAND_RADIUS * 1.1, HAND_RADIUS * 0.85), skin, arm.heading)
    for side in (-0.65, -0.2, 0.25, 0.7):
        along, across = 0.6 * cos - side * sin, 0.6 * sin + side * cos
        root = (palm[0] + HAND_RADIUS * along, palm[1] + HAND_RADIUS * across)
        tip = (root[0] + HAND_RADIUS * 0.75 * cos, root[1] + HAND_RADIUS * 0.75 * sin)
        canvas.fill(capsule(root, tip, 0.007, 0.006), tone(skin, 0.92 - 0.08 * (side > 0)))

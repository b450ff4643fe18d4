"""How one person does the ten things: habits differ between subjects so much that their classes overlap.

A driver who steers with one hand looks like one who texts in the lap; one who talks with a glance looks like
one who just drives. That, more than looks, is why a network does worse on people that it has not seen.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Habits:
    """Positions are shares between two extremes, 0 to 1; angles are in degrees."""

    gaze: float  # where the head points while driving, degrees: 0 the camera, 90 the road
    wander: float  # how far it strays from there between clips
    near_grip: float  # where on the wheel's rim the hands lie, degrees
    far_grip: float
    one_handed: float  # chance that a clip shows only one hand on the wheel
    rest: float  # where the other hand rests: 0 lap, 1 gear lever near the radio
    leans_on_door: bool  # the far elbow on the sill, the hand near the head
    phone_height: float  # texting: 0 in the lap, 1 on top of the wheel
    phone_shown: float  # how much of a phone shows past the hand
    text_gaze: float  # 0 looks up at the road, 1 down at the phone
    ear_spread: float  # phone call: 0 at the ear, 1 held before the mouth as on a loudspeaker
    call_shrug: float  # how far the head tilts toward the phone
    radio_reach: float  # 0 low knobs, 1 high ones
    radio_look: float
    cup_far: float  # chance of drinking with the far hand
    sip: float  # chance that the cup is at the mouth rather than before the chest
    reach_depth: float  # 0 beside the seat, 1 far behind it
    reach_turn: float  # how far the head follows
    makeup_far: float  # chance of using the far hand
    makeup_tool: float  # chance that a brush or lipstick is held
    makeup_spot: float  # 0 lips, 0.5 temple, 1 crown
    talk_turn: float  # 0 a glance, 1 faces the passenger
    talk_gesture: float  # chance of a raised hand while talking


def draw_habits(rng: np.random.Generator, strength: float) -> Habits:
    """One person's habits; spans are wide on purpose (see the module's text).

    Args:
        strength: What people seldom do is done so many times as often, and angles differ by that much more.
    """

    def share(low: float = 0.0, high: float = 1.0) -> float:
        return float(rng.uniform(low, high))

    def seldom(often: float) -> float:
        return float(rng.beta(0.4, 0.4 / (often * strength)))  # mostly near 0, a few people near 1

    return Habits(
        gaze=float(rng.normal(72, 4 * strength)),
        wander=share(2, 5),
        near_grip=float(rng.normal(180, 11 * strength)),
        far_grip=float(rng.normal(292, 12 * strength)),
        one_handed=seldom(0.05),
        rest=share(0, 0.8),
        leans_on_door=bool(rng.random() < 0.06),
        phone_height=share(0, 0.6),
        phone_shown=share(0.4, 1),
        text_gaze=share(0.3, 1),
        ear_spread=float(rng.beta(0.7, 4)),
        call_shrug=share(),
        radio_reach=share(),
        radio_look=share(),
        cup_far=seldom(0.04),
        sip=1 - seldom(0.06),
        reach_depth=share(0.3, 1),
        reach_turn=share(0.2, 1),
        makeup_far=seldom(0.06),
        makeup_tool=1 - seldom(0.1),
        makeup_spot=share(0.55, 1),
        talk_turn=share(0.35, 1),
        talk_gesture=share(0, 0.8),
    )

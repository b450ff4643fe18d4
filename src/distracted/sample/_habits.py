"""How a person does the ten activities. Habits differ so much between subjects that classes overlap.

A driver who steers with one hand looks like one who texts in the lap; one who talks with a glance looks like
one who just drives. Habits, more than appearance, make a network worse on people that it has not seen.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Habits:
    """Positions are fractions between two extremes, 0 to 1; angles are in degrees."""

    gaze: float  # direction of the head while driving, degrees: 0 the camera, 90 the road
    wander: float  # standard deviation of the gaze between clips, degrees
    near_grip: float  # position of the hands on the wheel's rim, degrees
    far_grip: float
    one_handed: float  # probability of only one hand on the wheel
    rest: float  # place of the other hand: 0 lap, 1 gear lever
    leans_on_door: bool  # far elbow on the sill, hand near the head
    phone_height: float  # texting: 0 in the lap, 1 on top of the wheel
    phone_shown: float  # visible fraction of a phone
    text_gaze: float  # texting: 0 looks up at the road, 1 down at the phone
    ear_spread: float  # phone call: 0 at the ear, 1 in front of the mouth, as with a loudspeaker
    call_shrug: float  # tilt of the head toward the phone
    radio_reach: float  # 0 low knobs, 1 high ones
    radio_look: float
    cup_far: float  # probability of drinking with the far hand
    sip: float  # probability of the cup at the mouth, not in front of the chest
    reach_depth: float  # 0 next to the seat, 1 far behind it
    reach_turn: float  # turn of the head when reaching
    makeup_far: float  # probability of using the far hand
    makeup_tool: float  # probability of holding a brush or lipstick
    makeup_spot: float  # 0 lips, 0.5 temple, 1 crown
    talk_turn: float  # 0 a glance, 1 faces the passenger
    talk_gesture: float  # probability of a raised hand while talking


def random_habits(rng: np.random.Generator, strength: float) -> Habits:
    """Habits of a random person; their ranges are wide on purpose (see the module's docstring).

    Args:
        strength: Factor on the probability of rare habits and on the spread of angles.
    """

    def share(low: float = 0.0, high: float = 1.0) -> float:
        return float(rng.uniform(low, high))

    def rare(rate: float) -> float:
        return float(rng.beta(0.4, 0.4 / (rate * strength)))  # near 0 for most people, near 1 for a few

    return Habits(
        gaze=float(rng.normal(72, 4 * strength)),
        wander=share(2, 5),
        near_grip=float(rng.normal(180, 11 * strength)),
        far_grip=float(rng.normal(292, 12 * strength)),
        one_handed=rare(0.05),
        rest=share(0, 0.8),
        leans_on_door=bool(rng.random() < 0.06),
        phone_height=share(0, 0.6),
        phone_shown=share(0.4, 1),
        text_gaze=share(0.3, 1),
        ear_spread=float(rng.beta(0.7, 4)),
        call_shrug=share(),
        radio_reach=share(),
        radio_look=share(),
        cup_far=rare(0.04),
        sip=1 - rare(0.06),
        reach_depth=share(0.3, 1),
        reach_turn=share(0.2, 1),
        makeup_far=rare(0.06),
        makeup_tool=1 - rare(0.1),
        makeup_spot=share(0.55, 1),
        talk_turn=share(0.35, 1),
        talk_gesture=share(0, 0.8),
    )

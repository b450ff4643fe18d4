"""One subject: a person with belongings, habits, a car, a camera, a light and a view."""

from dataclasses import dataclass

import numpy as np

from distracted.sample._canvas import Camera
from distracted.sample._habits import Habits, draw_habits
from distracted.sample._props import Things, draw_things
from distracted.sample._scenery import Outside, draw_outside
from distracted.sample._traits import Car, Light, Person, draw_camera, draw_car, draw_light, draw_person


@dataclass(frozen=True)
class Subject:
    """Everything that a subject's frames share."""

    person: Person
    things: Things
    habits: Habits
    car: Car
    camera: Camera
    light: Light
    outside: Outside


@dataclass(frozen=True)
class Nuisance:
    """How much subjects differ in what tells nothing of the class: factors of the usual, above 0."""

    camera: float = 1.0
    light: float = 1.0
    habits: float = 1.0


def draw_subject(rng: np.random.Generator, nuisance: Nuisance) -> Subject:
    """A new subject; the same state of the generator gives the same subject."""
    return Subject(
        person=draw_person(rng),
        things=draw_things(rng),
        habits=draw_habits(rng, nuisance.habits),
        car=draw_car(rng),
        camera=draw_camera(rng, nuisance.camera),
        light=draw_light(rng, nuisance.light),
        outside=draw_outside(rng),
    )

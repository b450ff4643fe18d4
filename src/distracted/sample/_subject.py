"""A subject: a person with belongings and habits, a car, a camera, a light and the scenery."""

from dataclasses import dataclass

import numpy as np

from distracted.sample import _traits as traits
from distracted.sample._canvas import Camera
from distracted.sample._habits import Habits, random_habits
from distracted.sample._props import Belongings, random_belongings
from distracted.sample._scenery import Scenery, random_scenery


@dataclass(frozen=True)
class Subject:
    """The parts of a scene that all of a subject's frames share."""

    person: traits.Person
    belongings: Belongings
    habits: Habits
    car: traits.Car
    camera: Camera
    light: traits.Light
    scenery: Scenery


@dataclass(frozen=True)
class Nuisance:
    """Factors above 0 on how much subjects differ in properties that say nothing about the class."""

    camera: float = 1.0
    light: float = 1.0
    habits: float = 1.0


def random_subject(rng: np.random.Generator, nuisance: Nuisance) -> Subject:
    """A random subject; the same state of the generator gives the same subject."""
    return Subject(
        person=traits.random_person(rng),
        belongings=random_belongings(rng),
        habits=random_habits(rng, nuisance.habits),
        car=traits.random_car(rng),
        camera=traits.random_camera(rng, nuisance.camera),
        light=traits.random_light(rng, nuisance.light),
        scenery=random_scenery(rng),
    )

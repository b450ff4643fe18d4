"""Colours (RGB, 0 to 255) of people, clothes, objects and cars."""

import numpy as np

Colour = tuple[int, int, int]

SKINS: tuple[Colour, ...] = (
    (244, 208, 184), (232, 190, 160), (222, 172, 138), (205, 152, 116),
    (178, 124, 88), (146, 98, 68), (112, 74, 52), (84, 56, 42),
)  # fmt: skip
HAIRS: tuple[Colour, ...] = (
    (24, 20, 20), (40, 30, 26), (66, 44, 30), (98, 66, 40),
    (150, 106, 60), (196, 158, 98), (150, 146, 144), (122, 52, 30),
)  # fmt: skip
CLOTHS: tuple[Colour, ...] = (
    (34, 36, 44), (60, 66, 78), (120, 124, 130), (226, 226, 222), (36, 58, 110), (70, 116, 176),
    (132, 34, 42), (196, 70, 60), (44, 92, 66), (122, 148, 86), (218, 178, 70), (208, 128, 60),
    (110, 70, 128), (206, 146, 166), (150, 112, 82), (80, 150, 158),
)  # fmt: skip
TRIMS: tuple[Colour, ...] = (
    (46, 46, 50), (66, 66, 70), (96, 94, 92), (130, 124, 114), (158, 146, 126), (84, 70, 58), (54, 58, 66),
)  # fmt: skip
PROPS: tuple[Colour, ...] = (
    (20, 20, 24), (230, 230, 232), (60, 62, 66), (180, 40, 50), (52, 90, 160),
    (212, 170, 150), (200, 206, 210),
)  # fmt: skip
CUPS: tuple[Colour, ...] = (
    (238, 236, 230), (176, 130, 84), (196, 36, 44), (40, 110, 80), (60, 96, 170),
    (40, 40, 44), (220, 190, 80),
)  # fmt: skip

BLACK: Colour = (18, 18, 20)
WHITE: Colour = (244, 244, 240)
LIP: Colour = (150, 70, 70)
SCREEN_GLOW: Colour = (170, 196, 220)
LEGS: tuple[Colour, ...] = ((44, 54, 80), (36, 36, 40), (88, 82, 70), (110, 120, 140), (150, 136, 110))


def tone(colour: Colour, factor: float) -> Colour:
    """A colour, `factor` times as bright."""
    red, green, blue = colour
    return min(255, int(red * factor)), min(255, int(green * factor)), min(255, int(blue * factor))


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """The colour a fraction `share` of the way from `first` to `second`."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue


def pick(rng: np.random.Generator, colours: tuple[Colour, ...], spread: float = 12.0) -> Colour:
    """A random colour, each channel jittered so that picks rarely repeat."""
    base = colours[rng.integers(len(colours))]
    red, green, blue = (int(np.clip(round(channel + rng.normal(0, spread)), 4, 250)) for channel in base)
    return red, green, blue

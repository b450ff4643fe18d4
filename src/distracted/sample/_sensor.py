"""Turn a drawn scene into a photograph: uneven light, exposure, blur and noise."""

import math

import cv2
import numpy as np
import numpy.typing as npt

from distracted.sample._canvas import FRAME_HEIGHT, Pixels
from distracted.sample._traits import Light

COARSE = 40  # columns of the light map before it is enlarged; light varies smoothly
SUN_PATCHES = 2
NOISE_MARGIN = 64  # noise is drawn once per subject and shifted by up to this many pixels in each frame
GREY = np.array([0.299, 0.587, 0.114])
REFERENCE_WIDTH = 320

Floats = npt.NDArray[np.float32]


class Sensor:
    """Develops the frames of one clip.

    Args:
        width: Picture width in pixels.
        light: The subject's light.
        grain: The sensor's noise, from `random_grain`.
        rng: Places the clip's patches of sun.
    """

    def __init__(self, width: int, light: Light, grain: Floats, rng: np.random.Generator) -> None:
        self._size = (width, round(width * FRAME_HEIGHT))
        self._light = light
        self._light_map = _light_map(light, self._size, rng)
        self._colours = _saturation(light.saturation)
        self._curve = (255 * (np.arange(256) / 255) ** light.gamma).astype(np.uint8)
        self._grain = grain

    def develop(self, scene: Pixels, gain: float, shake: float, rng: np.random.Generator) -> Pixels:
        """Make one frame, uint8 RGB, shape (0.75 * width, width, 3).

        Args:
            scene: The canvas's pixels.
            gain: Exposure of this frame, relative to the subject's.
            shake: Standard deviation of the blur along x, in final pixels at 320 pixels of width.
            rng: Shifts the noise for this frame.
        """
        scale = self._size[0] / REFERENCE_WIDTH
        picture = cv2.resize(scene, self._size, interpolation=cv2.INTER_AREA)
        sigma = max(self._light.blur * scale, 0.05)
        picture = cv2.GaussianBlur(picture, (0, 0), math.hypot(sigma, shake * scale), sigmaY=sigma)
        picture = cv2.LUT(cv2.transform(picture, self._colours), self._curve)
        lit = cv2.multiply(picture, self._light_map, scale=gain * (1 - self._light.haze), dtype=cv2.CV_32F)
        row, column = rng.integers(NOISE_MARGIN, size=2)
        lit += self._grain[row : row + self._size[1], column : column + self._size[0]]
        photograph: Pixels = cv2.convertScaleAbs(np.maximum(lit, 0, out=lit), beta=200 * self._light.haze)
        return photograph


def random_grain(width: int, light: Light, rng: np.random.Generator) -> Floats:
    """A sensor's noise in grey levels, float32, shape (H + NOISE_MARGIN, W + NOISE_MARGIN, 3)."""
    shape = (round(width * FRAME_HEIGHT) + NOISE_MARGIN, width + NOISE_MARGIN, 3)
    return rng.standard_normal(shape, dtype=np.float32) * np.float32(light.noise)


def _saturation(amount: float) -> npt.NDArray[np.float64]:
    """Colour matrix for a saturation from 0 (grey) to 1 (unchanged), shape (3, 3)."""
    return np.eye(3) * amount + (1 - amount) * np.tile(GREY, (3, 1))


def _light_map(light: Light, size: tuple[int, int], rng: np.random.Generator) -> Floats:
    """Brightness from falloff, patches of sun, vignette and warmth, float32, shape (H, W, 3)."""
    rows = round(COARSE * FRAME_HEIGHT)
    y, x = np.mgrid[0:rows, 0:COARSE] / COARSE - np.array([FRAME_HEIGHT / 2, 0.5])[:, None, None]
    along = x * light.direction[0] + y * light.direction[1]
    brightness = 1 + light.falloff * along * 1.4 - 0.35 * (x**2 + y**2)
    for _ in range(SUN_PATCHES):
        brightness += rng.uniform(-0.2, 0.4) * light.relief * _patch(x, y, rng)
    warmth = np.array([1 + light.warmth, 1.0, 1 - light.warmth])
    coarse = (np.clip(brightness, 0.12, 2.0)[:, :, None] * light.exposure * warmth).astype(np.float32)
    smooth: Floats = cv2.resize(coarse, size, interpolation=cv2.INTER_LINEAR)
    return smooth


def _patch(
    x: npt.NDArray[np.float64], y: npt.NDArray[np.float64], rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    """A random band of sun or shade with soft edges, 0 to 1."""
    angle, middle, width = rng.uniform(0, math.pi), rng.normal(0, 0.2), rng.uniform(0.06, 0.25)
    distance = np.abs(x * math.cos(angle) + y * math.sin(angle) - middle)
    return np.asarray(1 / (1 + np.exp((distance - width) / 0.015)))

"""Changes of a photo's pixels that leave its label map alone: colours and sharpness."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter

LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
"""Weights of red, green and blue in the grey value, ITU-R BT.601."""

YIQ = np.array([LUMA, [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]], dtype=np.float64)
"""From RGB to the grey value and two colour differences, NTSC."""

Array = np.ndarray


def colour_jitter(image: Array, *, brightness: float, contrast: float, saturation: float) -> Array:
    """Multiply by `brightness`, then stretch about the mean grey, then about each pixel's grey.

    Args:
        image: float32 [H, W, 3] RGB, 0..255.
        brightness: factor; 1 changes nothing, likewise below.
        contrast: factor of the distance from the image's mean grey value.
        saturation: factor of the distance from the pixel's own grey value.

    Returns:
        float32 [H, W, 3], clipped to 0..255 after each step.
    """
    bright = np.clip(image * np.float32(brightness), 0, 255)
    mean = np.float32((bright @ LUMA).mean())
    contrasted = np.clip(mean + (bright - mean) * np.float32(contrast), 0, 255)
    grey = (contrasted @ LUMA)[..., None]
    return np.clip(grey + (contrasted - grey) * np.float32(saturation), 0, 255)


def turn_hue(image: Array, *, degrees: float) -> Array:
    """Turn every colour about the grey axis of YIQ, in which the grey value stays.

    Args:
        image: float32 [H, W, 3] RGB, 0..255.
        degrees: the angle; 0 changes nothing.

    Returns:
        float32 [H, W, 3], clipped to 0..255.
    """
    angle = np.radians(degrees)
    turned = np.array(
        [[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]], dtype=np.float64
    )
    matrix = np.linalg.inv(YIQ) @ turned @ YIQ
    return np.clip(image @ matrix.T.astype(np.float32), 0, 255)


def apply_gamma(image: Array, *, gamma: float) -> Array:
    """255 (x / 255)^gamma of float32 [H, W, 3], 0..255: below 1 shadows are lit, above 1 they deepen."""
    return np.float32(255) * (image / np.float32(255)) ** np.float32(gamma)


def blur(image: Array, *, sigma: float) -> Array:
    """Gaussian blur, by Pillow's threefold box (a few milliseconds for a crop of 513x513).

    Args:
        image: [H, W, 3] RGB, 0..255.
        sigma: standard deviation, pixels.

    Returns:
        float32 [H, W, 3] of whole grey levels; edges are continued outwards.
    """
    picture = Image.fromarray(as_bytes(image)).filter(ImageFilter.GaussianBlur(sigma))
    return np.asarray(picture).astype(np.float32)


def as_bytes(image: Array) -> Array:
    """uint8 of pixels 0..255, halves up."""
    return image if image.dtype == np.uint8 else (image + np.float32(0.5)).astype(np.uint8)

"""Pixel normalisations that weights of more than one source share."""

from __future__ import annotations

from deeplab.config import PixelConfig

# mean of the released v1 and v2 Caffe models, blue first, and of what was converted from them
CAFFE_PIXELS = PixelConfig(mean=(104.008, 116.669, 122.675), std=(1.0, 1.0, 1.0), channels="bgr")

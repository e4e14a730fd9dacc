"""8-bit inference: the integer arithmetic of quantised files, so that labels equal those of their runtime."""

from deeplab.model.eight_bit.arithmetic import Grid
from deeplab.model.eight_bit.network import EightBit

__all__ = ["EightBit", "Grid"]

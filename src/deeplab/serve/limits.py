"""What a server takes, how much of it at once, and how long it waits."""

from __future__ import annotations

from dataclasses import dataclass

from deeplab.errors import refuse_outside

# decoders are attack surface: these are what cameras, phones and browsers make
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
# each is a pass over the photo
MOST_SCALES = 8
# beyond these a setting is a slip; seconds of a day
MOST_PIXELS, LARGEST_BODY, LONGEST_QUEUE, LONGEST = 1 << 30, 1 << 33, 100_000, 86_400


@dataclass(frozen=True)
class Limits:
    """Bounds of one process.

    Attributes:
        pixels: of a photo, counted as those that the network would see at its own stride: a scale of 2 counts four
            times, and so does half the output stride. Memory follows it, up to 1 GB a million.
        bytes: of a request's body.
        queue: requests that may be inside at once, the one that computes included; more are told to come again.
        deadline: seconds that a request may wait for its turn.
        header: seconds in which a request's header must come, and after which a silent connection is closed.
        body: seconds in which its body must come.

    Raises:
        UserError: one of them is not positive, or beyond reason.
    """

    pixels: int = 4_000_000
    bytes: int = 20_000_000
    queue: int = 16
    deadline: float = 60.0
    header: float = 8.0
    body: float = 30.0

    def __post_init__(self) -> None:
        refuse_outside(1, MOST_PIXELS, __max_pixels=self.pixels)
        refuse_outside(1, LARGEST_BODY, __max_bytes=self.bytes)
        refuse_outside(1, LONGEST_QUEUE, __queue=self.queue)
        for name in ("deadline", "header", "body"):
            refuse_outside(1e-3, LONGEST, **{name: getattr(self, name)})

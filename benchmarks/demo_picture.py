"""The README's picture: what `make demo` wrote, side by side and small.

    make demo
    python benchmarks/demo_picture.py demo docs/images/demo.jpg

The photos come with scikit-image: the astronaut Eileen Collins by NASA (public domain), the cat Chelsea by Stefan van
der Walt and the coffee by Rachel Michetti (both CC0).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image

HEIGHT, GAP = 330, 6


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("demo", type=Path)
    parser.add_argument("picture", type=Path)
    options = parser.parse_args()
    shown = []
    for path in sorted(options.demo.glob("*_overlay.png")):
        with Image.open(path) as held:
            width = round(held.width * HEIGHT / held.height)
            shown.append(held.convert("RGB").resize((width, HEIGHT), Image.Resampling.LANCZOS))
    picture = Image.new("RGB", (sum(each.width + GAP for each in shown) - GAP, HEIGHT), "white")
    left = 0
    for each in shown:
        picture.paste(each, (left, 0))
        left += each.width + GAP
    picture.save(options.picture, quality=88, optimize=True)
    print(
        f"{options.picture}: {picture.width} x {picture.height}, {options.picture.stat().st_size / 1000:.0f} kB"
    )


if __name__ == "__main__":
    main()

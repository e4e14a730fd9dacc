"""`deeplab import SOURCE -o DIR`: published weights into a model directory, with a report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

# --rates 6 12 18, in one go
Several = Annotated[list[int], Parameter(consume_multiple=True)]


def import_weights(
    source: str,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    sha256: str | None = None,
    rates: Several | None = None,
    output_stride: int | None = None,
    multi_grid: Several | None = None,
    decoder_strides: Several | None = None,
    pooling_crop: tuple[int, int] | None = None,
    pooling_stride: tuple[int, int] | None = None,
    gate: Literal["sigmoid", "qsigmoid"] | None = None,
    cell: Path | None = None,
) -> None:
    """Turn published weights into a model directory of ours and report what was read and inferred.

    Options other than --output are for what the source does not hold; an error says which are needed.

    Parameters
    ----------
    source
        File, folder or archive (.tar.gz) with the weights, or a TensorFlow checkpoint's prefix; its kind is
        recognised by content. An http(s) address is downloaded first (needs the extra `download`).
    output
        Directory to write; `deeplab predict --model DIR` takes it.
    sha256
        Checksum that a download must have; its first digits are enough.
    rates
        Atrous rates of the head's branches, stated at --output-stride, such as 6 12 18.
    output_stride
        Input side over feature side, such as 16.
    multi_grid
        Unit rates of the last block, such as 1 2 4.
    decoder_strides
        Strides of the decoder's stages, descending, such as 4.
    pooling_crop
        Height and width in pixels of the crop that image pooling's window was made for.
    pooling_stride
        Vertical and horizontal stride of that window.
    gate
        Sigmoid of a squeeze-and-excite head.
    cell
        JSON file of a dense prediction cell.
    """
    from rich.console import Console

    from deeplab import importers
    from deeplab.cli.tables import byte_progress
    from deeplab.errors import UserError
    from deeplab.importers.hints import Hints
    from deeplab.system.download import fetch, is_address

    path = Path(source)
    if is_address(source):
        with byte_progress(source) as progress:
            path = fetch(source, sha256=sha256, progress=progress)
    elif sha256:
        raise UserError(f"--sha256 goes with an address; {source} is a path: leave --sha256 away")
    hints = Hints(
        rates=tuple(rates) if rates else None,
        output_stride=output_stride,
        multi_grid=tuple(multi_grid) if multi_grid else None,
        decoder_strides=tuple(decoder_strides) if decoder_strides else None,
        pooling_crop=pooling_crop,
        pooling_stride=pooling_stride,
        gate=gate,
        cell=cell,
    )
    model, report = importers.import_weights(path, hints)
    model.save_pretrained(output)
    console = Console()
    report.show(console)
    console.print(f"written to {output}", markup=False, highlight=False, soft_wrap=True)

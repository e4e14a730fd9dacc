"""Parameters of the fully connected CRF, and the values that the papers published.

v1 section 5.1 and v2 section 4.1: w2 = 3 and sigma_gamma = 3 are kept, the others are searched on 100 held-out
images, coarse to fine; 10 mean-field iterations throughout.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import Field, ValidationError

from deeplab.config import Strict
from deeplab.config.errors import explain_validation
from deeplab.errors import UserError
from deeplab.system.reading import foreign, parse_json, read_text

Weight = Annotated[float, Field(ge=0, le=1e4)]
Deviation = Annotated[float, Field(gt=1e-3, le=1e6)]

ITERATIONS = 10


class CRFConfig(Strict):
    """Weights and standard deviations of the two pairwise terms, in the papers' symbols.

    w1 exp(-|p_i - p_j|^2 / (2 sigma_alpha^2) - |I_i - I_j|^2 / (2 sigma_beta^2))
    + w2 exp(-|p_i - p_j|^2 / (2 sigma_gamma^2))

    Attributes:
        w1: weight of the appearance term; 0 leaves it out.
        sigma_alpha: its reach in pixels.
        sigma_beta: its reach in image values (0 to 255).
        w2: weight of the smoothness term; 0 leaves it out.
        sigma_gamma: its reach in pixels.
    """

    w1: Weight = 4.0
    sigma_alpha: Deviation = 67.0
    sigma_beta: Deviation = 3.0
    w2: Weight = 3.0
    sigma_gamma: Deviation = 1.0


class SearchRanges(NamedTuple):
    """What v1 and v2 searched (lowest, highest), and what they kept."""

    w1: tuple[float, float] = (3.0, 6.0)
    sigma_alpha: tuple[float, float] = (30.0, 100.0)
    sigma_beta: tuple[float, float] = (3.0, 6.0)
    w2: float = 3.0
    sigma_gamma: float = 3.0


SEARCHED = SearchRanges()
# in wide use for v2 with ResNet-101; neither paper prints the values that its own search chose
V2_RESNET101 = CRFConfig(w1=4.0, sigma_alpha=67.0, sigma_beta=3.0, w2=3.0, sigma_gamma=1.0)
# the middle of what v1 searched, with what it kept
V1 = CRFConfig(w1=4.5, sigma_alpha=65.0, sigma_beta=4.5, w2=3.0, sigma_gamma=3.0)
CRF_PRESETS = {"v1": V1, "v2-resnet101": V2_RESNET101}


def crf_parameters(name: str) -> CRFConfig:
    """Parameters by preset name, or from a JSON file of `deeplab crf search` or of the fields of `CRFConfig`.

    Raises:
        UserError: neither a preset nor a file, or a file that holds something else.
    """
    if name in CRF_PRESETS:
        return CRF_PRESETS[name]
    path = Path(name)
    allowed = f"{', '.join(CRF_PRESETS)}, or a JSON file as `deeplab crf search -o FILE` writes it"
    if not path.is_file():
        raise UserError(
            f"--crf {name!r} is neither a known set of CRF parameters nor a file", allowed=allowed
        )
    with foreign(path, "is not a readable JSON file", fix=f"give another of {allowed}"):
        held = parse_json(read_text(path))
    fields = held.get("parameters", held) if isinstance(held, dict) else held
    if not isinstance(fields, dict) or not fields:
        raise UserError(f"{path} names no CRF parameters", allowed=allowed)
    try:
        return CRFConfig.model_validate(fields)
    except ValidationError as error:
        raise UserError(explain_validation(error, CRFConfig, str(path))) from None

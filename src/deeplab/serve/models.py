"""The models that a server offers: each loaded once, made ready for every output stride that somebody asks for."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from deeplab.config.labels import LabelSpec
from deeplab.errors import UserError
from deeplab.model.checkpoint import EMBEDDED, load, version_of
from deeplab.prediction.artefacts import artefact_path, open_artefact, predictor_of, version_of_file
from deeplab.prediction.labelling import Labelling
from deeplab.prediction.predictor import Predictor
from deeplab.system.reading import beginning

CARD = "README.md"
CARD_BYTES = 50_000
EXAMPLE = (65, 65)


@dataclass(frozen=True)
class Offered:
    """A model under its name.

    Attributes:
        ready: what labels photos by it in some way; raises UserError where it cannot.
        labels: its classes.
        output_stride: its own.
        largest_scale: of its image pyramid, or 1 if that is larger.
        parameters: how many it has; None of an exported model, whose file does not say.
        example: height and width of a photo that it takes.
        version: twelve digits that change with its weights or its description.
        card: what it knows and does not, as Markdown; empty if nobody wrote it.
    """

    name: str
    ready: Callable[[Labelling], Predictor]
    labels: LabelSpec
    output_stride: int
    largest_scale: float
    parameters: int | None
    example: tuple[int, int]
    version: str
    card: str


class Models:
    """Models by name, the first being the default.

    Args:
        given: each a name or path as `deeplab predict --model` takes it, or NAME=PATH to choose the name.
        how: labelling where a request says nothing else.

    Raises:
        UserError: no such model, two of one name, or one that cannot be labelled with so.
    """

    def __init__(self, given: Sequence[str], how: Labelling) -> None:
        self.how = how
        self._offered: dict[str, Offered] = {}
        for source in given:
            offered = _offered(source)
            if offered.name in self._offered:
                raise UserError(f"two models are called {offered.name!r}", fix="--model ANOTHER_NAME=PATH")
            self._offered[offered.name] = offered
        self._ready: dict[tuple[str, int | None, bool], Predictor] = {}
        for name, offered in self._offered.items():
            # kernels are compiled and memory is found before the first photo comes
            self.predictor(name, how).labels_of(np.zeros((*offered.example, 3), np.uint8))

    def __iter__(self) -> Iterator[Offered]:
        return iter(self._offered.values())

    def named(self, name: str | None) -> Offered:
        """The model of that name; None takes the first.

        Raises:
            UserError: no such model.
        """
        if name is None:
            return next(iter(self))
        if name not in self._offered:
            raise UserError(f"no model {name!r} is served here", allowed=", ".join(self._offered))
        return self._offered[name]

    def predictor(self, name: str, how: Labelling) -> Predictor:
        """What labels photos so; for the computing thread alone, as it may make the network ready first.

        Raises:
            UserError: the model cannot run so.
        """
        key = (name, how.output_stride, how.one_pass)
        if key not in self._ready:
            self._ready[key] = self._offered[name].ready(how)
        predictor = copy.copy(self._ready[key])
        predictor.how = how
        return predictor

    def weight(self, offered: Offered, how: Labelling) -> float:
        """How many pixels one of a photo counts as, see `Limits.pixels`."""
        denser = 1.0 if how.output_stride is None else offered.output_stride / how.output_stride
        return (offered.largest_scale * max(1.0, *how.scales) * max(1.0, denser)) ** 2

    def describe(self) -> list[dict[str, Any]]:
        """All that one can know of each model, as JSON values."""
        return [
            {
                "name": each.name,
                "version": each.version,
                "classes": classes_of(each.labels),
                "output_stride": self.predictor(each.name, self.how).output_stride,
                "engine": self.predictor(each.name, self.how).engine,
                "precision": self.how.precision,
                "parameters": each.parameters,
                "card": each.card,
            }
            for each in self
        ]


def classes_of(labels: LabelSpec) -> list[dict[str, Any]]:
    """Number, name and colour (#rrggbb) of each class."""
    return [
        {"id": index, "name": name, "colour": "#" + bytes(colour).hex()}
        for index, (name, colour) in enumerate(zip(labels.classes, labels.palette, strict=True))
    ]


def with_options(
    how: Labelling, *, output_stride: int | None, scales: Sequence[float] | None, flip: bool | None
) -> Labelling:
    """`how` with what a request says; None keeps it.

    Raises:
        UserError: they do not go together.
    """
    asked: dict[str, Any] = {"output_stride": output_stride, "scales": scales or None, "flip": flip}
    return replace(how, **{name: value for name, value in asked.items() if value is not None})


def _offered(source: str) -> Offered:
    chosen, equals, path = source.partition("=")
    name, place = (chosen, path) if equals and chosen and "/" not in chosen else ("", source)
    if not name:
        name = place if place in EMBEDDED else Path(place).stem if Path(place).suffix else Path(place).name
    file = artefact_path(place)
    if file is not None:
        artefact = open_artefact(file)
        about = artefact.description
        return Offered(
            name,
            partial(predictor_of, artefact, file),
            about.labels,
            about.output_stride,
            max(1.0, *about.architecture.image_pyramid),
            None,
            about.input.nearest(EXAMPLE),
            version_of_file(file),
            _card(place),
        )
    network = load(place)
    if network.config.pixels.bands:
        raise UserError(
            f"{source} reads the bands {', '.join(network.config.pixels.bands)}, and a server is sent 8-bit RGB photos",
            fix="label such photos with predict",
        )
    parameters = sum(value.numel() for value in network.parameters())
    return Offered(
        name,
        partial(Predictor.of, network),
        network.labels,
        network.output_stride,
        max(1.0, *network.config.image_pyramid),
        parameters,
        EXAMPLE,
        version_of(network),
        _card(place),
    )


def _card(place: str) -> str:
    folder = resources.files("deeplab") / "models" / place if place in EMBEDDED else Path(place)
    card = folder / CARD
    return beginning(Path(str(card)), CARD_BYTES).decode(errors="replace")

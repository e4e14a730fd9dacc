"""ADE20K's names: as many as there are, in the order of the reference's colours, used for such weights."""

from __future__ import annotations

from deeplab.config.labels import LabelSpec
from deeplab.imaging.ade20k_classes import ADE20K_CLASSES
from deeplab.importers.published import FILES, labels_for


def test_names_stand_in_the_benchmarks_order() -> None:
    """Rows of objectInfo150, whose numbers count from 1."""
    assert len(ADE20K_CLASSES) == len(set(ADE20K_CLASSES)) == 151
    rows = {
        **{0: "other", 1: "wall", 3: "sky", 8: "bed", 13: "person", 21: "car", 45: "chest of drawers"},
        **{57: "pool table", 65: "coffee table", 76: "swivel chair", 90: "television receiver", 104: "ship"},
        **{110: "swimming pool", 128: "bicycle", 137: "traffic light", 142: "crt screen", 150: "flag"},
    }
    assert {row: ADE20K_CLASSES[row] for row in rows} == rows


def test_names_bring_the_references_colours() -> None:
    """Reference appendix B, by number: 1, 3, 10 and 20."""
    colours = dict(zip(ADE20K_CLASSES, LabelSpec.named(ADE20K_CLASSES).palette, strict=True))
    assert colours["wall"] == (120, 120, 120)
    assert colours["sky"] == (6, 230, 230)
    assert colours["grass"] == (4, 250, 7)
    assert colours["chair"] == (204, 70, 3)


def test_weights_of_151_classes_get_the_names() -> None:
    labels, source = labels_for(151, sha256="")
    assert labels.classes == ADE20K_CLASSES and labels.ignore_label == 0
    assert "ADE20K" in source
    (mobile,) = [file for file in FILES.values() if "ADE20K" in file.title]
    assert mobile.classes[:3] == ("other", "wall", "building") and mobile.classes[-1] == "armchair"

"""What `deeplab predict` does with pictures larger than memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

if TYPE_CHECKING:
    from deeplab.prediction.predictor import Predictor

# sides of the overview that is drawn
OVERVIEW = 2048


@Parameter(name="*")
@dataclass(frozen=True)
class SceneOptions:
    """How GeoTIFFs, slides and TIFFs beyond 64 megapixels are read and written.

    Parameters
    ----------
    bands:
        Of a scene: numbers of the bands to read, from 1, in the model's order. Default: all but transparency.
    level:
        Of a slide: 0 is the finest.
    polygons:
        Of a scene: also write the outlines of its regions, NAME_labels.geojson or NAME_labels.gpkg.
    """

    bands: Annotated[tuple[int, ...], Parameter(consume_multiple=True, negative="")] = ()
    level: int = 0
    polygons: Literal["geojson", "gpkg"] | None = None


def predict_scene(
    predictor: Predictor, path: Path, output: Path, *, name: str, options: SceneOptions, overlay: bool
) -> tuple[dict[str, Any], str]:
    """Label a scene; its line in the index, and what was found in it, in words.

    Raises:
        UserError: see `label_scene` and `open_scene`.
    """
    import numpy as np

    from deeplab.cli.tables import pixel_progress
    from deeplab.imaging.bands import viewable
    from deeplab.imaging.label_rasters import label_preview, refuse_geojson_of, write_polygons
    from deeplab.imaging.overlay import draw_overlay
    from deeplab.imaging.png import save_png
    from deeplab.imaging.scenes import open_scene
    from deeplab.prediction.scenes import label_scene
    from deeplab.system.memory import large_blocks_given_back

    spec, target = predictor.labels, output / f"{name}_labels.tif"
    with open_scene(path, bands=options.bands, level=options.level) as scene:
        if options.polygons == "geojson":
            refuse_geojson_of(scene.placed())
        with pixel_progress(path.name) as progress, large_blocks_given_back():
            counts = label_scene(predictor, scene, target, on_progress=lambda now: progress(*now))
        seen = scene.preview(OVERVIEW) if overlay else None
        size = scene.size
    found = counts[: len(spec.classes)] / max(1, counts[: len(spec.classes)].sum())
    shares = {
        spec.classes[index]: round(float(found[index]), 6) for index in np.argsort(-found) if found[index]
    }
    entry: dict[str, Any] = {"labels": target.name, "height": size[0], "width": size[1], "shares": shares}
    if seen is not None:
        # what has no data keeps its colours
        labels = label_preview(target, OVERVIEW).astype(np.int64)
        labels[labels >= len(spec.classes)] = spec.ignore_label
        drawn = draw_overlay(
            np.ascontiguousarray(viewable(np.nan_to_num(seen))),
            labels,
            class_names=spec.classes,
            palette=np.array(spec.palette, np.uint8),
            ignore_label=spec.ignore_label,
        )
        entry["overlay"] = save_png(drawn, output / f"{name}_overlay.png").name
    if options.polygons:
        polygons = output / f"{name}_labels.{options.polygons}"
        background = [index for index, each in enumerate(spec.classes) if each == "background"]
        write_polygons(target, polygons, classes=spec.classes, untinted=background)
        entry["polygons"] = polygons.name
    words = ", ".join(f"{each} {share:.1%}" for each, share in shares.items() if share >= 0.0005)
    return entry, words or "no pixel of it has data"

"""The evaluation as one HTML file to look at or send: tables, charts, the worst photos; nothing is fetched."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from PIL import Image

from deeplab.evaluation.report.worst import Shown

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #202226; max-width: 1260px; margin: 2em auto; padding: 0 1em }
table { border-collapse: collapse } td, th { padding: .2em .9em .2em 0; text-align: right }
td:first-child, th:first-child { text-align: left } tr { border-bottom: 1px solid #dedfe3 }
img { max-width: 100% } figure { margin: 1em 0 } figcaption { color: #5b5f66 }
"""
_TOTALS = ("mean IoU", "pixel accuracy", "mean accuracy", "frequency-weighted IoU")


def html_page(
    report: Mapping[str, Any], *, title: str, pictures: Mapping[str, Image.Image], worst: Sequence[Shown]
) -> str:
    """The page.

    Args:
        report: see `deeplab.evaluation.report.summary.summarise`.
        title: of the page.
        pictures: charts by caption.
        worst: photos to show, from the worst.
    """
    parts = [f"<h1>{escape(title)}</h1>", _totals(report), "<h2>By class</h2>", _by_class(report)]
    parts += [_figure(_png(picture), caption) for caption, picture in pictures.items()]
    if worst:
        parts.append("<h2>Worst photos</h2><p>Photo, ground truth, prediction.</p>")
    parts += [_figure(one.picture, f"{one.name}: mean IoU {_number(one.mean_iou)}") for one in worst]
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{_STYLE}</style>'
    return f"<!doctype html>\n<html>\n<head>{head}</head>\n<body>\n{chr(10).join(parts)}\n</body>\n</html>\n"


def _totals(report: Mapping[str, Any]) -> str:
    rows = [(name, _number(report[name])) for name in _TOTALS]
    for name, what in (
        ("bootstrap", "interval of the mean IoU"),
        ("difference", "difference of the mean IoU"),
    ):
        if name in report:
            held = report[name]
            interval = f"{_number(held['low'])} to {_number(held['high'])}"
            rows.append((f"{100 * held['confidence']:g} % {what}", interval))
    for group, names in (
        ("boundaries", ("boundary IoU", "boundary F")),
        ("calibration", ("expected calibration error",)),
    ):
        rows += [(name, _number(report[group][name])) for name in names if group in report]
    if "instance-weighted IoU" in report:
        rows.append(("instance-weighted IoU (iIoU)", _number(report["instance-weighted IoU"]["mean"])))
    return _table(("", ""), rows)


def _by_class(report: Mapping[str, Any]) -> str:
    columns = [report["IoU"], report["accuracy"]]
    heads = ["class", "IoU", "accuracy"]
    if "boundaries" in report:
        columns += [report["boundaries"][f"{name} by class"] for name in ("boundary IoU", "boundary F")]
        heads += ["boundary IoU", "boundary F"]
    rows = [
        (name, *(_number(column[name]) for column in columns), f"{report['labelled pixels'][name]:,}")
        for name in report["IoU"]
    ]
    return _table((*heads, "labelled pixels"), rows)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str], kind: str) -> str:
        return f"<tr>{''.join(f'<{kind}>{escape(cell)}</{kind}>' for cell in cells)}</tr>"

    head = line(heads, "th") if any(heads) else ""
    return f"<table>{head}{''.join(line(row, 'td') for row in rows)}</table>"


def _figure(png: bytes, caption: str) -> str:
    data = base64.b64encode(png).decode()
    words = escape(caption)
    return f'<figure><img alt="{words}" src="data:image/png;base64,{data}"><figcaption>{words}</figcaption></figure>'


def _png(picture: Image.Image) -> bytes:
    held = io.BytesIO()
    picture.save(held, format="PNG", optimize=True)
    return held.getvalue()


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"

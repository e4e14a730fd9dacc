"""`deeplab models`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from deeplab.cli.labelling import idle

if TYPE_CHECKING:
    from rich.table import Table

    from deeplab.config import DeepLabConfig

# in words, below the name in terminals that are not wide enough for columns of their own
WORDS = ("backbone", "head", "source", "mean IoU, %")
RIGHT = ("OS", "parameters", "multiply-adds")
HEADS = {"fc": "", "dpc": "dense prediction cell", "aspp": "ASPP", "none": ""}


def models(
    name: str | None = None,
    *,
    format: Annotated[Literal["yaml", "json"] | None, Parameter(name=["--format", "-f"])] = None,
) -> None:
    """Named models: every row of the reference's model zoo and of the papers' main tables.

    Parameters
    ----------
    name:
        Show this model's whole config, as a recipe takes it, instead of the list.
    format:
        Of the config: yaml or json. Default: yaml.
    """
    if name is not None:
        print(_config_text(name, format or "yaml"))
        return
    if format is not None:
        raise idle("--format", needs="a model's name")
    _print_all()


def _config_text(name: str, format: Literal["yaml", "json"]) -> str:
    import yaml

    from deeplab.presets import preset

    values = preset(name).to_json()
    if format == "json":
        return json.dumps(values, indent=2)
    return yaml.safe_dump(values, sort_keys=False).rstrip()


def _print_all() -> None:
    from functools import cache

    from rich.console import Console
    from rich.progress import track

    from deeplab.cli.tables import print_table
    from deeplab.model.cost import Cost, cost
    from deeplab.presets import PRESETS

    console = Console(stderr=True)
    counted = cache(lambda text, size: cost(_parse(text), size))
    groups: dict[str, list[dict[str, str]]] = {}
    for name, entry in track(PRESETS.items(), "counting", console=console, disable=not console.is_terminal):
        config = entry.build()
        numbers: Cost = counted(config.model_dump_json(), entry.size)
        results = [result.describe() for result in entry.results]
        group = f"{entry.dataset}, {entry.size[0]} x {entry.size[1]}"
        groups.setdefault(group, []).append(
            {
                "name": name,
                "backbone": config.backbone.name,
                "head": describe_head(config),
                "OS": str(config.output_stride),
                "parameters": f"{numbers.parameters / 1e6:.2f} M",
                "multiply-adds": f"{numbers.multiply_adds / 1e9:.2f} G",
                "mean IoU, %": "\n".join(results) or (f"- ({entry.training})" if entry.training else "-"),
                "source": entry.source,
            }
        )
    for title, rows in groups.items():
        print_table(*tables(title, rows))
    print("deeplab models NAME shows a model's whole config")


def tables(title: str, rows: list[dict[str, str]]) -> list[Table]:
    """The rows, cells by column, as tables of fewer and fewer columns; cells without one stand below the name."""
    from rich.table import Table

    made = []
    for below in ((), WORDS[:3], WORDS):
        columns = [column for column in rows[0] if column not in ("name", *below)]
        table = Table("\n".join(("name", *below)), title=title, show_lines=bool(below))
        for column in columns:
            table.add_column(column, justify="right" if column in RIGHT else "left")
        for row in rows:
            named = "\n".join(row[column] for column in ("name", *below))
            table.add_row(named, *(row[column] for column in columns))
        made.append(table)
    return made


def _parse(text: str) -> DeepLabConfig:
    from deeplab.config import DeepLabConfig

    return DeepLabConfig.model_validate_json(text)


def describe_head(config: DeepLabConfig) -> str:
    """A few words for everything behind the backbone."""
    from deeplab.config import ResNetConfig

    context = config.context
    words = [HEADS[context.kind]]
    if context.kind == "aspp" and not context.rates:
        words = ["LR-ASPP" if context.gate else "image pooling"]
    if context.kind == "fc":
        words = [f"fc {context.kernel}x{context.kernel}"]
    words += [f"rates {','.join(map(str, config.rates))}"] if config.rates else []
    cascade = config.backbone.cascade if isinstance(config.backbone, ResNetConfig) else 0
    words += [f"cascade of {cascade}"] if cascade else []
    words += ["MSc"] if config.multi_scale_features else []
    words += [f"decoder at {','.join(map(str, config.decoder.strides))}"] if config.decoder else []
    if config.image_pyramid != (1.0,):
        words += ["at " + ", ".join(f"{scale:g}" for scale in config.image_pyramid) + " of the photo"]
    return " ".join(word for word in words if word) or "1x1 classifier"

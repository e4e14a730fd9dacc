"""`deeplab models`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

if TYPE_CHECKING:
    from deeplab.config import DeepLabConfig
    from deeplab.presets import Preset

HEADS = {"fc": "", "dpc": "dense prediction cell", "aspp": "ASPP", "none": ""}


def models(
    name: str | None = None,
    *,
    format: Annotated[Literal["yaml", "json"], Parameter(name=["--format", "-f"])] = "yaml",
) -> None:
    """Named models: every row of the reference's model zoo and of the papers' main tables.

    Parameters
    ----------
    name:
        Show this model's whole config, as a recipe takes it, instead of the list.
    format:
        Of the config: yaml or json.
    """
    if name is None:
        _print_all()
    else:
        print(_config_text(name, format))


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
    from rich.table import Table

    from deeplab.cli.tables import print_table
    from deeplab.model.cost import Cost, cost
    from deeplab.presets import PRESETS

    table = Table("name", "backbone", "head")
    for title in ("OS", "parameters", "multiply-adds"):
        table.add_column(title, justify="right")
    for title in ("mean IoU, per cent", "source"):
        table.add_column(title)
    console = Console(stderr=True)
    counted = cache(lambda text, size: cost(_parse(text), size))
    for name, entry in track(PRESETS.items(), "counting", console=console, disable=not console.is_terminal):
        config = entry.build()
        numbers: Cost = counted(config.model_dump_json(), entry.size)
        height, width = entry.size
        table.add_row(
            name,
            config.backbone.name,
            describe_head(config),
            str(config.output_stride),
            f"{numbers.parameters / 1e6:.2f} M",
            f"{numbers.multiply_adds / 1e9:.2f} G at {height} x {width}",
            _scores(entry),
            entry.source,
        )
    print_table(table)


def _parse(text: str) -> DeepLabConfig:
    from deeplab.config import DeepLabConfig

    return DeepLabConfig.model_validate_json(text)


def _scores(entry: Preset) -> str:
    if not entry.results:
        return f"- ({entry.training})" if entry.training else "-"
    return f"{entry.dataset}: " + "\n".join(result.describe() for result in entry.results)


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
    words += [f"{len(config.image_pyramid)} scales"] if len(config.image_pyramid) > 1 else []
    return " ".join(word for word in words if word) or "1x1 classifier"

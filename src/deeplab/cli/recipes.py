"""`deeplab recipes`."""

from __future__ import annotations

from itertools import takewhile
from pathlib import Path


def recipes(name: str | None = None) -> None:
    """Recipes that come with the package, for: deeplab train NAME data.root=FOLDER -o DIR

    Parameters
    ----------
    name:
        Show this recipe, with all that it extends, instead of the list.
    """
    import yaml
    from rich.table import Table

    from deeplab.cli.tables import print_table
    from deeplab.train.recipe import locate_recipe, recipe_keys, recipe_names

    if name is not None:
        path = locate_recipe(name)
        keys = yaml.safe_dump(recipe_keys(path), sort_keys=False)
        print(*_comment_on_top(path), keys.rstrip(), sep="\n")
        return
    table = Table("name", "what it trains")
    for each in recipe_names():
        words = " ".join(line.removeprefix("# ") for line in _comment_on_top(locate_recipe(each)))
        table.add_row(each, words.partition(". ")[0].rstrip("."))
    print_table(table)


def _comment_on_top(path: Path) -> list[str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return list(takewhile(lambda line: line.startswith("#"), lines))

"""YAML of settings, within limits: aliases of aliases, dates that are none and numbers without end are all refused."""

from __future__ import annotations

from typing import Any

import yaml

from deeplab.errors import UserError
from deeplab.system.reading import LARGEST_INTEGER

# characters of a recipe, which take the parser seconds, and values, with what aliases stand for
LARGEST, MOST_NODES = 1 << 18, 100_000


def parse_yaml(text: str) -> Any:
    """YAML of settings: values as `deeplab.system.reading.parse_json` allows; dates stay text.

    Raises:
        UserError: what is not allowed, or more nodes than settings have, as aliases of aliases stand for.
        yaml.YAMLError, ValueError, RecursionError: no YAML, or nested too deeply.
    """
    if len(text) > LARGEST:
        raise UserError(f"{len(text)} characters of YAML", allowed=f"up to {LARGEST}")
    return yaml.load(text, _Settings)


class _Settings(yaml.SafeLoader):
    """A SafeLoader that counts what aliases stand for, and reads no dates."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - as in the class above
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._nodes = 0
        self._sizes: dict[int, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        before, alias = self._nodes, self.check_event(yaml.AliasEvent)
        node = super().compose_node(parent, index)
        if alias and id(node) not in self._sizes:
            raise UserError("an alias inside of what it stands for")
        self._nodes += self._sizes[id(node)] if alias else 1
        if not alias:
            self._sizes[id(node)] = self._nodes - before
        if self._nodes > MOST_NODES:
            raise UserError(f"more than {MOST_NODES} values, those that aliases stand for among them")
        return node

    def construct_integer(self, node: yaml.ScalarNode) -> int:
        value = self.construct_yaml_int(node)
        if not -LARGEST_INTEGER <= value < LARGEST_INTEGER:
            raise UserError(f"an integer of {value.bit_length()} bits", allowed="up to 64 bits")
        return value

    def construct_text(self, node: yaml.Node) -> str:
        value: str = self.construct_yaml_str(node)
        # a half of a character, which no terminal and no file takes, is an error
        value.encode()
        return value


_Settings.add_constructor("tag:yaml.org,2002:str", _Settings.construct_text)
_Settings.add_constructor("tag:yaml.org,2002:int", _Settings.construct_integer)

"""Reads YAML that gives no key two values."""

import reprlib
from typing import Any

import yaml

from utils.errors import warn

LONGEST = 1_000_000  # characters; PyYAML takes half a minute
MOST_ALIASES = 20  # each may double the size of the content


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which silently takes the last of two equal keys, with checks."""

    aliases = 0
    source = ""  # prefix of warnings

    def compose_node(self, parent: Any, index: Any) -> yaml.Node:
        mark = self.peek_event().start_mark
        self.aliases += self.check_event(yaml.AliasEvent)
        if self.aliases > MOST_ALIASES:
            raise _problem(f"more than {MOST_ALIASES} aliases", mark)
        node = super().compose_node(parent, index)
        if node.end_mark is None:
            raise _problem("an alias inside of its own anchor", mark)
        return node

    def construct_mapping(self, node: yaml.Node, deep: bool = False) -> dict:
        first: dict[str, yaml.Node] = {}
        for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
            if isinstance(key, yaml.ScalarNode) and first.setdefault(key.value, value) is not value:
                self._check_repeated(key, first[key.value], value)
        return super().construct_mapping(node, deep)

    def _check_repeated(self, key: yaml.ScalarNode, *nodes: yaml.Node) -> None:
        """Warn if a key has the same value twice, as in the published files; else raise."""
        first, second = (self.construct_object(node, deep=True) for node in nodes)
        twice = f"the key {key.value} is given twice"
        if repr(first) != repr(second):  # 1 == 1.0 == True in Python
            values = f"as {reprlib.repr(first)} and as {reprlib.repr(second)}"
            raise _problem(f"{twice}, {values}", key.start_mark)
        line = key.start_mark.line + 1
        warn(f"{self.source}line {line}: {twice}, both times as {reprlib.repr(first)}")


def _problem(text: str, mark: yaml.Mark) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=text, problem_mark=mark)


def read_yaml(text: str, source: str = "") -> Any:
    """Parse a YAML text; warns of a key that is given twice with the same value.

    Args:
        text: the YAML.
        source: name of the file, for warnings.

    Raises:
        ValueError: the text is not valid; one line, with the line number if it is known.
    """
    if len(text) > LONGEST:
        raise ValueError(f"found {len(text)} characters, expected a config of a few thousand")
    try:
        loader = _Loader(text)
        loader.source = source and f"{source}: "
        return loader.get_single_data()
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        hint = "; indent with spaces" if "'\\t'" in str(error.problem) else ""
        raise ValueError(f"{line}not valid YAML: {error.problem}{hint}") from None
    except RecursionError:
        raise ValueError("not valid YAML: nested too deeply") from None
    except (yaml.YAMLError, ArithmeticError, AttributeError, LookupError, ValueError) as error:
        # PyYAML raises these at values that do not fit their tag or are out of range
        raise ValueError(f"not valid YAML: {' '.join(str(error).split())[:160]}") from None

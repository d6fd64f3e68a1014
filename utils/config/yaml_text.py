"""Read YAML strictly: no key with two values, no deep nesting, few aliases."""

from typing import Any

import yaml

from utils.errors import warn

MAX_DEPTH = 8  # levels; a config has three
MAX_LENGTH = 1_000_000  # characters
MAX_ALIASES = 20  # each may repeat everything before it


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the checks it lacks: repeated keys, and endless aliases."""

    depth = aliases = 0
    source = ""  # where the text comes from, for warnings

    def compose_node(self, parent: Any, index: Any) -> yaml.Node:
        mark, alias = self.peek_event().start_mark, self.check_event(yaml.AliasEvent)
        self.depth, self.aliases = self.depth + 1, self.aliases + alias
        if self.depth > MAX_DEPTH:
            raise _problem(f"nested deeper than {MAX_DEPTH} levels", mark)
        if self.aliases > MAX_ALIASES:
            raise _problem(f"more than {MAX_ALIASES} aliases", mark)
        node = super().compose_node(parent, index)
        if node.end_mark is None:
            raise _problem("an alias of a node that contains it", mark)
        self.depth -= 1
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, OverflowError) as error:  # invalid dates, very long numbers
            raise _problem(str(error).partition("; use sys.")[0], node.start_mark) from None

    def construct_mapping(self, node: yaml.Node, deep: bool = False) -> dict:
        seen: dict[str, yaml.Node] = {}
        for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                self._check_repeated(key, seen[key.value], value)
            elif isinstance(key, yaml.ScalarNode):
                seen[key.value] = value
        return super().construct_mapping(node, deep)

    def _check_repeated(self, key: yaml.ScalarNode, first: yaml.Node, second: yaml.Node) -> None:
        """Warn of a key given twice with the same value; raise for different values."""
        # repr distinguishes 1, true and 1.0, which are equal in Python
        values = [repr(self.construct_object(node, deep=True)) for node in (first, second)]
        mark = key.start_mark
        if values[0] != values[1]:
            raise _problem(
                f"the key {key.value} is given twice, as {_short(values[0])} and as "
                f"{_short(values[1])}",
                mark,
            )
        warn(
            f"{self.source}line {mark.line + 1}: the key {key.value} is given twice, both times "
            f"as {_short(values[0])}"
        )


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."


def _problem(text: str, mark: yaml.Mark) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=text, problem_mark=mark)


def read_yaml(text: str, source: str = "") -> Any:
    """The value of a YAML text. A key given twice with the same value causes a warning.

    Args:
        text: the YAML.
        source: path of the file, for warnings.

    Raises:
        ValueError: the text is not valid YAML or violates a limit. The message is one line.
    """
    if len(text) > MAX_LENGTH:
        raise ValueError(f"found {len(text)} characters, expected a config of a few thousand")
    try:
        loader = _Loader(text)
        loader.source = source and f"{source}: "
        return loader.get_single_data()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f"line {mark.line + 1}: " if mark else ""
        hint = "; indent with spaces" if "'\\t'" in str(error.problem) else ""
        raise ValueError(f"{line}not valid YAML: {error.problem}{hint}") from None
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())[:160]
        raise ValueError(f"not valid YAML: {reason}") from None

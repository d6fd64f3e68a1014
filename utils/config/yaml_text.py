"""YAML as configs need it: no key twice, no depth that a config cannot have."""

from typing import Any

import yaml

DEEPEST = 8  # levels; a config has three
LONGEST = 1_000_000  # characters
ALIASES = 20  # each may repeat all that stands before it


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader takes the last of two equal keys, and follows aliases for ever."""

    depth = aliases = 0

    def compose_node(self, parent: Any, index: Any) -> yaml.Node:
        mark, alias = self.peek_event().start_mark, self.check_event(yaml.AliasEvent)
        self.depth, self.aliases = self.depth + 1, self.aliases + alias
        if self.depth > DEEPEST:
            raise _problem(f"nested deeper than {DEEPEST} levels", mark)
        if self.aliases > ALIASES:
            raise _problem(f"more than {ALIASES} aliases", mark)
        node = super().compose_node(parent, index)
        if node.end_mark is None:
            raise _problem("an alias of what it stands in", mark)
        self.depth -= 1
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, OverflowError) as error:  # of dates, of endless numbers
            raise _problem(str(error).partition("; use sys.")[0], node.start_mark) from None

    def construct_mapping(self, node: yaml.Node, deep: bool = False) -> dict:
        seen = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise _problem(f"the key {key.value} stands there twice", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _problem(text: str, mark: yaml.Mark) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=text, problem_mark=mark)


def read_yaml(text: str) -> Any:
    """The value of a YAML text.

    Raises:
        ValueError: what is wrong, with the line where it is known; one line.
    """
    if len(text) > LONGEST:
        raise ValueError(f"found {len(text)} characters, expected a config of a few thousand")
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f"line {mark.line + 1}: " if mark else ""
        hint = "; indent with spaces" if "'\\t'" in str(error.problem) else ""
        raise ValueError(f"{line}not valid YAML: {error.problem}{hint}") from None
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())[:160]
        raise ValueError(f"not valid YAML: {reason}") from None

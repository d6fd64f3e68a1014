"""Load a config from YAML with overrides. Errors are reported in one line."""

import difflib
import reprlib
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from utils.config.removed import refuse_removed
from utils.config.schema import Config, Settings, SourceSettings
from utils.config.yaml_text import read_yaml
from utils.errors import UserError


class LoadedConfig(NamedTuple):
    """A config and the file it came from."""

    config: Config
    path: Path


def load_config(name: str, overrides: list[str], config_dir: Path) -> LoadedConfig:
    """Read a config and apply overrides.

    Args:
        name: name of a file in ``config_dir``, such as ``vnc2lucchi1``, or the path of a YAML file.
        overrides: ``SECTION.key=value``, with the value in YAML.
        config_dir: folder of the shipped configs.

    Raises:
        UserError: the file is missing, or it has an unknown key, a wrong type or an invalid value.
    """
    path = _find_config(name, config_dir)
    values = _read_yaml(path)
    refuse_removed(flat(values), str(path))
    origin = {}
    for override in overrides:
        key, value = parse_override(override)
        origin[key] = f"--set {override}"
        refuse_removed(flat({key: value}), origin[key])
        section, _, field = key.partition(".")
        if field and not isinstance(values.setdefault(section, {}), dict):
            raise UserError(f"{path}: {section}: found {values[section]!r}, expected keys under it")
        (values[section] if field else values)[field or section] = value
    try:
        return LoadedConfig(Config.model_validate(values), path)
    except ValidationError as error:
        key, problem = _explain(error)
        source = next((o for k, o in origin.items() if f"{k}.".startswith(f"{key}.")), path)
        raise UserError(f"{source}: {key}: {problem}") from None


def flat(values: dict) -> dict[str, Any]:
    """Values by "SECTION.key", and values outside a section by their name."""
    found = {}
    for section, content in values.items():
        if isinstance(content, dict):
            found |= {f"{section}.{key}": value for key, value in content.items()}
        else:
            found[section] = content
    return found


def _find_config(name: str, config_dir: Path) -> Path:
    candidates = [Path(name), config_dir / name, config_dir / f"{name}.yaml"]
    for path in candidates:
        if path.is_file():
            return path
    shipped = sorted(p.stem for p in config_dir.glob("*.yaml"))
    raise UserError(
        f"-c {name}: no such config; expected the path of a YAML file or one of "
        f"{', '.join(shipped)}{_nearest(name, shipped)}"
    )


def _read_yaml(path: Path) -> dict:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    try:
        values = read_yaml(text, str(path))
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected the sections NAME, MODEL, TRAIN, DATA, TEST")
    for section in (values, *(v for v in values.values() if isinstance(v, dict))):
        for key in section:
            if not isinstance(key, str):
                raise UserError(f"{path}: key {key!r}: found {type(key).__name__}, expected a name")
    return {key: {} if value is None and key != "NAME" else value for key, value in values.items()}


def parse_override(override: str) -> tuple[str, Any]:
    """Key and value of ``SECTION.key=value``; raises UserError."""
    key, equals, value = override.partition("=")
    if not equals:
        raise UserError(f"--set {override}: expected SECTION.key=value, as TRAIN.total_iters=20")
    try:
        return key.strip(), read_yaml(value)
    except ValueError:
        raise UserError(f"--set {override}: the value is not valid YAML") from None


def _explain(error: ValidationError) -> tuple[str, str]:
    """Key and description of the first error."""
    first = error.errors()[0]
    place = [str(part) for part in first["loc"] if isinstance(part, str)]
    key, kind = ".".join(place), first["type"]
    if kind == "extra_forbidden":
        return key, f"unknown key{_nearest(key, _all_keys(key))}"
    if kind == "missing":
        return key, "missing; expected a value"
    if kind == "value_error":  # raised in the schema as "field: problem"
        field, _, problem = str(first["ctx"]["error"]).partition(": ")
        place = place if place[-1:] == [field] else [*place, field]
        return ".".join(place), problem
    found = reprlib.repr(first["input"])  # shortened
    return key, f"found {found}; {first['msg'][0].lower()}{first['msg'][1:]}"


def _all_keys(unknown: str) -> list[str]:
    """The keys that may be meant by an unknown one."""
    if unknown.startswith("DATA.sources."):
        return [f"DATA.sources.{name}" for name in SourceSettings.model_fields]
    keys = []
    for section, field in Config.model_fields.items():
        keys.append(section)
        if isinstance(field.annotation, type) and issubclass(field.annotation, Settings):
            keys += [f"{section}.{name}" for name in field.annotation.model_fields]
    return keys


def _nearest(name: str, valid: list[str]) -> str:
    """A hint that names the most similar valid name; empty if there is none."""
    by_lower = {key.lower(): key for key in valid}
    near = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    return f"; the nearest is {by_lower[near[0]]}" if near else ""

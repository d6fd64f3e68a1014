"""The config in the folder of a result, and what it was written for."""

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

from training.new_config import config_text
from training.propose_config import Proposal
from utils.config.load import load_config, parse_override
from utils.config.schema import Config
from utils.errors import UserError, writing_to
from utils.files import part_of
from utils.paths import CONFIG_DIR, shown

CONFIG, RECORD = "config.yaml", "segment.json"
HEADING = (
    "Written by segment.py. Edit it and run segment.py again, or use it with main.py and "
    "inference.py."
)


class Record(NamedTuple):
    """What an earlier call has left in the folder of a result.

    Attributes:
        config: its file.
        asked: the options that it was written for.
        edited: whether it was changed since.
        notes: what was said when it was written.
    """

    config: Path
    asked: dict[str, Any]
    edited: bool
    notes: list[str]


def read_record(folder: Path) -> Record | None:
    """The record in a folder; None without one. Raises UserError if it is damaged."""
    path, config = folder / RECORD, folder / CONFIG
    if not path.is_file() or not config.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        asked, digest, notes = dict(found["asked"]), str(found["digest"]), list(found["notes"])
        return Record(config, asked, _digest(config.read_bytes()) != digest, notes)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not readable ({error}); delete it, or give --overwrite") from None


def write_record(
    folder: Path, name: str, proposal: Proposal, asked: dict[str, Any], notes: list[str]
) -> Config:
    """Write a config with its overrides, and what it was written for; return the config.

    Raises:
        UserError: an override is not valid, or the folder cannot be written.
    """
    config, overrides = folder / CONFIG, asked["overrides"]
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
        part = part_of(config)
        part.write_text(config_text(name, proposal, HEADING), encoding="utf-8")
        try:
            load_config(str(part), overrides, CONFIG_DIR)  # names a wrong override
        except UserError:
            part.unlink()
            raise
        text = config_text(name, _overridden(proposal, overrides), HEADING)
        part.write_text(text, encoding="utf-8")
        record = {"asked": asked, "digest": _digest(text.encode()), "notes": notes}
        # a config without a record is written again
        (folder / RECORD).unlink(missing_ok=True)
        part.replace(config)
        part_of(folder / RECORD).write_text(json.dumps(record, indent=2), encoding="utf-8")
        part_of(folder / RECORD).replace(folder / RECORD)
    return load_config(str(config), [], CONFIG_DIR).config


def changed_options(earlier: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """The options that differ, as they are written."""
    names = {"volume": "VOLUME", "content": "the content of VOLUME", "overrides": "--set"}
    keys = [key for key in now if earlier.get(key) != now[key]]
    return [names.get(key, f"--{key.replace('_', '-')}") for key in keys]


def load_recorded(record: Record) -> Config:
    """The config of a record, as it is now; raises UserError if an edit made it invalid."""
    return load_config(shown(record.config), [], CONFIG_DIR).config


def _overridden(proposal: Proposal, overrides: list[str]) -> Proposal:
    sections = {section: dict(keys) for section, keys in proposal.items()}
    for override in overrides:
        key, value = parse_override(override)
        section, _, field = key.partition(".")
        if field:
            sections.setdefault(section, {})[field] = (value, "--set")
    return sections


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()

"""Removed and renamed keys and values of configs, and the error message for each."""

from typing import Any, NamedTuple

from utils.errors import UserError

WHY = "brought no improvement: docs/results/removed_options.md"


class Removed(NamedTuple):
    """A removed key.

    Attributes:
        last: the last revision that had it.
        off: the value that turned it off.
    """

    last: str
    off: Any


REMOVED = {
    "BEYOND.teacher": Removed("88888e3", False),
    "BEYOND.soft_xor": Removed("88888e3", False),
    "BEYOND.sure_fraction": Removed("88888e3", 1.0),
    "BEYOND.strong_view": Removed("88888e3", False),
    "BEYOND.hidden_fraction": Removed("88888e3", 0.0),
    "BEYOND.complementary": Removed("88888e3", "no"),
    "BEYOND.context": Removed("88888e3", 0),
    "BEYOND.keep_source": Removed("88888e3", False),
    "BEYOND.match_spectrum": Removed("88888e3", False),
    "BEYOND.random_strides": Removed("88888e3", False),
    "BEYOND.paste": Removed("88888e3", False),
    "BEYOND.prototypes": Removed("88888e3", 0.0),
    "BEYOND.residual_labels": Removed("88888e3", False),
    "DATA.section_thickness": Removed("88888e3", None),
    "TEST.fuse_residual": Removed("88888e3", False),
}
REMOVED_VALUES = {
    ("TRAIN.choose_by", rule): "88888e3"
    for rule in ("agreement", "entropy", "foreground", "solidity")
}
RENAMED = {
    "BEYOND.begin": "BEYOND.warmup_fraction",
    "BEYOND.guard": "BEYOND.foreground_ratio_limit",
    "BEYOND.match_greys": "BEYOND.histogram_matching",
    "BEYOND.random_source": "BEYOND.domain_randomisation",
    "TEST.depth": "TEST.z_average",
}


def refuse_removed(values: dict[str, Any], source: str) -> None:
    """Raise UserError for removed and renamed keys and values.

    Args:
        values: by "SECTION.key".
        source: the file or the option that contains them.
    """
    for key, value in values.items():
        if key in RENAMED:
            raise UserError(f"{source}: {key}: renamed to {RENAMED[key]}; rename it in the config")
        last = REMOVED_VALUES.get((key, value)) if isinstance(value, str) else None
        if last:
            raise UserError(
                f"{source}: {key}: the value {value} was removed after revision {last} (it {WHY}); "
                "remove it"
            )
    gone = [key for key in values if key in REMOVED]
    if gone:
        last = REMOVED[gone[0]].last
        one = len(gone) == 1
        raise UserError(
            f"{source}: {', '.join(gone)}: removed after revision {last} "
            f"({'it' if one else 'they'} {WHY}); remove {'it' if one else 'them'}"
        )

"""Keys and values of earlier configs that are gone or renamed, and the answer to each."""

from typing import Any, NamedTuple

from utils.errors import UserError

WHY = "brought nothing: docs/results.md"


class Removed(NamedTuple):
    """A key that is gone.

    Attributes:
        last: the last revision that had it.
        off: its value that changed nothing.
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
    """Answer what is gone in one line; raises UserError.

    Args:
        values: by "SECTION.key".
        source: the file or the option that holds them.
    """
    for key, value in values.items():
        if key in RENAMED:
            raise UserError(f"{source}: {key}: is called {RENAMED[key]} now; rename it")
        last = REMOVED_VALUES.get((key, value)) if isinstance(value, str) else None
        if last:
            raise UserError(
                f"{source}: {key}: {value} is gone since the revision after {last} (it {WHY}); "
                "remove it"
            )
    gone = [key for key in values if key in REMOVED]
    if gone:
        last = REMOVED[gone[0]].last
        one = len(gone) == 1
        raise UserError(
            f"{source}: {', '.join(gone)}: gone since the revision after {last} "
            f"({'it' if one else 'they'} {WHY}); remove {'it' if one else 'them'}"
        )

"""Natural order: sort names by the numbers in them."""

import re
from collections import defaultdict
from collections.abc import Iterable
from decimal import Decimal
from pathlib import PurePath
from typing import NamedTuple

NUMBER = re.compile(r"\d+(?:\.\d+)*")
SIGNS = {"-": -1, "−": -1, "+": 1}

Key = list[tuple[int, Decimal | str]]


class _Number(NamedTuple):
    """A number in a name.

    Attributes:
        before: the text before the number and its sign, with every number replaced by 0.
        sign: "-", "−", "+" or "".
        text: the text before the number and its sign.
        digits: the number, with any points.
    """

    before: str
    sign: str
    text: str
    digits: str


def natural_order(names: Iterable[str]) -> dict[str, Key]:
    """Names in natural order, each with its key of (0, number) and (1, text) parts.

    Numbers are compared by value: 2.png comes before 10.png. A dash is a minus sign if other names
    have a number without a dash in the same place (z-2, z-1, z0); otherwise it is a separator
    (a-1, 2020-01-02). A point between two numbers is a decimal point (z0.5), unless it separates
    counters, as in 1.9, 1.10 or 1.2.3. The suffix decides last.
    """
    names = list(names)
    found = {name: list(_numbers(PurePath(name).stem)) for name in names}
    forms = defaultdict(list)
    for numbers in found.values():
        for number in numbers:
            forms[number.before].append(number)
    signed = {
        before for before, those in forms.items() if any(number.sign != "-" for number in those)
    }
    decimal = {before for before, those in forms.items() if _are_decimals(those)}
    keys = {name: _key(name, numbers, signed, decimal) for name, numbers in found.items()}
    return dict(sorted(keys.items(), key=lambda item: item[1]))


def _numbers(stem: str) -> Iterable[_Number]:
    for match in NUMBER.finditer(stem):
        start = match.start()
        sign = stem[start - 1] if start and stem[start - 1] in SIGNS else ""
        if sign and start > 1 and stem[start - 2].isdecimal():  # 2020-01
            sign = ""
        before = re.sub(r"\d+", "0", stem[: start - len(sign)])
        yield _Number(before, sign, stem[: start - len(sign)], match[0])


def _are_decimals(numbers: list[_Number]) -> bool:
    """Whether points in numbers are decimal points."""
    parts = [number.digits.split(".") for number in numbers]
    fractions = [part[1] for part in parts if len(part) == 2]
    if any(len(part) > 2 for part in parts):
        return False
    if len(fractions) < len(parts) or len({len(fraction) for fraction in fractions}) == 1:
        return True  # z0, z0.5, z1; or 0.25, 0.50
    return not any(len(fraction) > 1 and fraction.endswith("0") for fraction in fractions)


def _key(name: str, numbers: list[_Number], signed: set[str], decimal: set[str]) -> Key:
    key: Key = []
    stem, end = PurePath(name).stem, 0
    for number in numbers:
        minus = number.sign and number.before in signed
        start = len(number.text)
        key.append((1, stem[end : start if minus else start + len(number.sign)].lower()))
        factor = SIGNS[number.sign] if minus else 1
        pieces = [number.digits] if number.before in decimal else number.digits.split(".")
        for place, piece in enumerate(pieces):
            key += [(1, ".")] * bool(place) + [(0, factor * Decimal(piece))]
        end = start + len(number.sign) + len(number.digits)
    return [part for part in key if part != (1, "")] + [(1, (stem[end:]).lower()), (1, name)]

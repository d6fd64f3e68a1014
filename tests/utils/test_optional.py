"""Packages that single features want."""

import pytest

from utils import optional
from utils.errors import UserError
from utils.optional import wanted


def test_a_package_that_is_there() -> None:
    assert wanted("json.decoder", "to test").JSONDecoder


def test_a_missing_package_is_asked_for_by_what_pip_calls_it(monkeypatch) -> None:
    monkeypatch.setitem(optional.PACKAGES, "nothing_here", "nothing-here")
    with pytest.raises(UserError) as caught:
        wanted("nothing_here.inside", "to read MRC")
    assert str(caught.value) == (
        "nothing-here is not installed, but needed to read MRC; pip install nothing-here, or pip "
        "install -r requirements-extra.txt"
    )

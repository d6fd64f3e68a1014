"""Reading ahead and writing behind."""

import pytest

from utils.runtime.threads import prefetch, write_behind


def test_ahead_keeps_the_order_and_works_no_further_than_its_depth() -> None:
    done = []

    def square(number: int) -> int:
        done.append(number)
        return number**2

    for index, found in enumerate(prefetch(square, range(8), limit=2)):
        assert found == index**2
        assert len(done) <= index + 3
    assert done == list(range(8))


def test_ahead_raises_what_the_function_raises() -> None:
    with pytest.raises(ZeroDivisionError):
        list(prefetch(lambda number: 1 / number, [1, 0, 1]))


def test_behind_is_done_at_the_end_and_in_order() -> None:
    done = []
    with write_behind(done.append, limit=3) as submit:
        for number in range(10):
            submit(number)
            assert len(done) >= number - 3
    assert done == list(range(10))


@pytest.mark.parametrize("calls", [1, 5])
def test_behind_raises_what_the_function_raises(calls: int) -> None:
    def fail(number: int) -> None:
        raise OSError(f"no room for {number}")

    with pytest.raises(OSError, match="no room for 0"), write_behind(fail, limit=2) as submit:
        for number in range(calls):
            submit(number)

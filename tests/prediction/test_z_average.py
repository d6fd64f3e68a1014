"""Predictions averaged over neighbouring sections."""

import numpy as np
import pytest

from prediction.z_average import z_averaged


@pytest.mark.parametrize("count", [1, 3, 5, 9])
@pytest.mark.parametrize("sections", [1, 4, 12])
def test_each_section_is_the_mean_of_those_near_it(sections: int, count: int) -> None:
    volume = np.random.default_rng(0).random((sections, 3, 4), np.float32)
    asked = []

    def read(index: int) -> np.ndarray:
        asked.append(index)
        return volume[index].copy()

    found = dict(z_averaged(read, sections, count))
    assert asked == list(range(sections))  # each once: it may lie on a slow disc
    for index in range(sections):
        near = [k for k in range(sections) if abs(k - index) <= (count - 1) // 2]
        np.testing.assert_allclose(found[index], volume[near].mean(0), rtol=1e-5)
        assert found[index].dtype == np.float32

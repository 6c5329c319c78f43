"""One thread: the models are so small that a second one only waits, and sums keep their order."""

from collections.abc import Iterator

import pytest

from runtime.training.laboratory import one_thread


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield

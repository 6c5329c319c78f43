"""Sampling settings: what is refused, and what is greedy."""

import math

import pytest

from runtime.sampling_settings import Sampling
from schedules.errors import BadInput


def test_the_default_is_greedy() -> None:
    assert Sampling().greedy
    assert not Sampling(temperature=0.7).greedy
    assert Sampling(0.7, 40, 0.9, 5).to_dict() == {
        "temperature": 0.7,
        "top_k": 40,
        "top_p": 0.9,
        "seed": 5,
    }


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"temperature": -1.0}, "temperature is -1.0; it must be 0"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"temperature": math.inf}, "temperature is inf"),
        ({"temperature": 1e-9}, "temperature is 1e-09; .* at least 1e-06"),
        ({"temperature": 1, "top_k": 0}, "top_k is 0; it must be a whole number of at least 1"),
        ({"temperature": 1, "top_p": 0.0}, "top_p is 0.0; it must be above 0 and at most 1"),
        ({"temperature": 1, "top_p": 1.5}, "top_p is 1.5"),
        ({"temperature": 1, "top_p": math.nan}, "top_p is nan"),
        ({"temperature": 1, "seed": -1}, "seed is -1; it must be a whole number from 0"),
        ({"temperature": 1, "seed": 2**63}, "seed is 9223372036854775808"),
        ({"top_k": 40}, "top_k = 40 has no effect at temperature 0"),
        ({"top_p": 0.9}, "top_p = 0.9 has no effect at temperature 0"),
    ],
)
def test_what_is_refused(values: dict, says: str) -> None:
    with pytest.raises(BadInput, match=says):
        Sampling(**values)

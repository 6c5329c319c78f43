"""Predicted activations, by hand."""

import numpy as np
import pytest

from schedules.errors import BadInput
from schedules.expert.cache_infinity import MoEInfinity
from schedules.expert.cache_traces import ActivationTraces

LEFT = np.array([[3, 1], [4, 0], [2, 2]])
RIGHT = np.array([[0, 4], [0, 4], [1, 3]])


def test_the_most_similar_request_is_the_prediction() -> None:
    """Layer 0 has chosen expert 1; layers 1 and 2 are 1 and 2 of 3 layers ahead."""
    traces = ActivationTraces(2)
    traces.add(LEFT)
    traces.add(RIGHT)
    predicted = traces.predict([[0, 1], [0, 0], [0, 0]], layer=0)
    expected = [[0, 1], [0, 2 / 3], [1 / 4 / 3, 3 / 4 / 3]]
    assert np.allclose(predicted, expected, rtol=1e-15)


def test_past_layers_are_not_discounted() -> None:
    traces = ActivationTraces(1)
    traces.add(LEFT)
    predicted = traces.predict([[1, 0], [1, 0], [0, 0]], layer=1)
    assert np.allclose(predicted, [[3 / 4, 1 / 4], [1, 0], [1 / 3, 1 / 3]], rtol=1e-15)


def test_equal_matches_are_added() -> None:
    """Both have the same cosine with what layer 1 has chosen: 3 of 5."""
    traces = ActivationTraces(2)
    traces.add([[4, 0], [3, 0]])
    traces.add([[0, 4], [3, 0]])
    assert np.allclose(traces.predict([[0, 0], [1, 0]], layer=1), [[1 / 2, 1 / 2], [1, 0]])


def test_a_full_collection_gives_up_what_was_matched_least() -> None:
    traces = ActivationTraces(2)
    traces.add(LEFT)
    traces.add(RIGHT)
    traces.predict(LEFT, layer=2)
    traces.add([[4, 0], [4, 0], [4, 0]])  # replaces RIGHT
    assert len(traces) == 2
    predicted = traces.predict(RIGHT, layer=2)
    assert np.allclose(predicted, [[3 / 4, 1 / 4], [1, 0], [1 / 2, 1 / 2]])


def test_the_collection_keeps_copies() -> None:
    traces, matrix = ActivationTraces(1), np.array([[1.0, 0.0]])
    traces.add(matrix)
    matrix[:] = [[0, 1]]
    assert traces.predict([[1, 0]], layer=0).tolist() == [[1, 0]]


def test_without_past_or_present_there_is_no_prediction() -> None:
    traces, policy = ActivationTraces(1), MoEInfinity(3, 2)
    policy.predict(traces.predict(LEFT, layer=0))
    traces.add(LEFT)
    assert traces.predict(np.zeros((3, 2)), layer=0) is None
    policy.predict(traces.predict(LEFT, layer=0))
    assert policy.score((1, 0)) == pytest.approx((1 + 1e-6) * 2 / 3)


def test_mistakes() -> None:
    with pytest.raises(BadInput, match="0 activation traces"):
        ActivationTraces(0)
    traces = ActivationTraces(1)
    traces.add(LEFT)
    for matrix in [LEFT[:2], -LEFT, LEFT[0]]:
        with pytest.raises(BadInput, match=r"a matrix \(layers, experts\)"):
            traces.add(matrix)

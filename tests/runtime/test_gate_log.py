"""Choices that a gate keeps for the host: the latest of each gate, ids and weights."""

import numpy as np
import torch

from runtime.gate_log import GateLog
from schedules.task import Task


def gate(op, layer, step=0):
    return Task(0, op, "gpu", layer, 0, step)


def choices(tokens, first):
    ids = torch.arange(first, first + 2 * tokens, dtype=torch.int32).view(tokens, 2)
    return ids, ids / 100


def test_own_gates_and_those_that_look_ahead_are_apart():
    log = GateLog()
    own, ahead = gate("scored_gate", 3), gate("stacked_gate", 3)
    for task, first in ((ahead, 10), (own, 20)):
        log.sink(task, *choices(2, first))()
    assert log.ids(ahead).tolist() == [[10, 11], [12, 13]]
    assert log.ids(own).dtype == np.int64
    assert np.allclose(log.weights(own), [[0.20, 0.21], [0.22, 0.23]])
    assert log.weights(own).dtype == np.float64


def test_the_latest_choices_count():
    """A step has other tokens than prefill; what was answered before stays as it is."""
    log = GateLog()
    log.sink(gate("scored_gate", 0), *choices(3, 10))()
    before = log.ids(gate("scored_gate", 0)), log.weights(gate("scored_gate", 0))
    log.sink(gate("scored_gate", 0), *choices(3, 60))()
    log.sink(gate("scored_gate", 0, 1), *choices(1, 40))()
    assert log.ids(gate("scored_gate", 0, 1)).tolist() == [[40, 41]]
    assert before[0].tolist() == [[10, 11], [12, 13], [14, 15]]
    assert before[1].max() == np.float32(0.15)


def test_other_gates_keep_no_weights():
    log = GateLog()
    log.sink(gate("scored_gate", 0), *choices(1, 0))()
    assert log.weights(gate("gate", 0)) is None
    assert log.weights(gate("scored_gate", 1)) is None

"""Steps from two of them: which tasks last equally long, and how long."""

from dataclasses import replace

import numpy as np
import pytest

from schedules.policy import make_policy
from schedules.schedule import find_schedule
from sim.api import Question
from sim.cost import Roofline
from sim.decoding import kinds, steps_between
from sim.generation import issue_phase
from sim.scenario import place


def foretold(gen_len=9):
    scenario = Question("mixtral-8x7b", "gcp-t4-24c", "mtbench", gen_len=gen_len).scenario()
    schedule = place(scenario, find_schedule("cgopipe"), make_policy({"N": 6, "mu": 2}))
    cost = Roofline(scenario.hardware)
    first, last = (issue_phase(schedule, step) for step in (1, gen_len - 1))
    return schedule, cost, steps_between(first, last, (1, gen_len - 1), cost)


def test_tasks_by_pairs_of_numbers():
    tasks, kind = kinds(np.array([0, 1, 0, 1, 0]), np.array([2, 0, 2, 0, 1]))
    assert kind.tolist() == [1, 2, 1, 2, 0]
    assert kind[tasks].tolist() == [0, 1, 2]
    tasks, kind = kinds(np.zeros(0, np.int64), np.zeros(0, np.int64))
    assert not len(tasks)
    assert not len(kind)


def test_pairs_of_large_numbers():
    """Beyond 16 bits."""
    one, other = np.array([0, 70_000, 0]), np.array([65_536, 1, 0])
    assert kinds(one, other)[1].tolist() == [1, 2, 0]


def test_tasks_of_equal_works_last_equally_long():
    _, _, steps = foretold()
    tasks, kind = steps.lasting
    assert 1 < len(tasks) < len(steps.graph) / 10
    shares = np.array([steps.share(step) for step in (1, 4, 8)])
    for column, step in enumerate((1, 4, 8)):
        assert np.array_equal(steps.seconds(shares)[kind, column], steps.duration_s(step))


def test_seconds_that_somebody_has_given_to_one_task():
    _, _, steps = foretold()
    fixed = steps.fixed_s.copy()
    fixed[5] += 1.0
    changed = replace(steps, fixed_s=fixed)
    assert len(changed.lasting[0]) == len(steps.graph)
    _, kind = changed.lasting
    assert changed.seconds(np.zeros(1))[kind, 0] == pytest.approx(changed.duration_s(1))


def test_a_step_that_is_foretold():
    schedule, cost, steps = foretold()
    step = issue_phase(schedule, 4)
    assert steps.foretells(step, 4, cost)
    assert not steps.foretells(step, 5, cost)  # its context is longer
    other = replace(step, layer=step.layer[::-1])
    assert not steps.foretells(other, 4, cost)

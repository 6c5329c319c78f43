"""What the tests of the explanation share: phases of random programs, small generations."""

import math
from dataclasses import replace

from schedules.policy import make_policy
from schedules.schedule import find_schedule
from sim.api import Question, run
from sim.causes import Times, times_of
from sim.events import events_of
from sim.result import Result
from tests.strategies import Issued, Program, issue

TINY = 1e-6


def times_of_issued(issued: Issued, longer=None) -> Times:
    """The times of a random program; `longer` takes the place of its durations."""
    duration_s = issued.duration_s if longer is None else longer
    return times_of(events_of(issued.graph), duration_s, issued.issue_s, issued.sync_s)


def times_of_program(program: Program) -> Times:
    return times_of_issued(issue(program))


def small(name: str, model="mixtral-8x7b", hardware="gcp-t4-24c", gen_len=3, layers=2) -> Result:
    """A schedule with 8 sequences and few layers."""
    kind = find_schedule(name)
    scenario = Question(model, hardware, "mtbench", gen_len).scenario()
    scenario = replace(scenario, model=scenario.model.with_layers(layers))
    return run(scenario, kind, make_policy({"N": 8, "mu": 8 if kind.one_batch else 4}))


def with_rate(result: Result, resource: str, factor: float) -> Result:
    """The same on a machine on which one resource is `factor` times as fast."""
    scenario = result.scenario
    times = 1 / factor if resource.endswith("_s") else factor
    changed = scenario.hardware.with_rate(resource, times)
    kind = type(result.generation.schedule)
    return run(replace(scenario, hardware=changed), kind, result.policy)


def one_sided(result: Result, resource: str) -> tuple[float, float]:
    """d ln throughput / d ln rate by finite differences: slower, and faster."""
    sides = []
    for change in (-TINY, TINY):
        other = with_rate(result, resource, 1 + change)
        log = math.log(other.throughput_tok_s / result.throughput_tok_s)
        sides.append(log / math.log1p(change))
    return sides[0], sides[1]

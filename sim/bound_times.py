"""Seconds of a run without simulating events: everything overlaps perfectly.

* `streams`: a phase takes as long as its busiest stream, the host's issuing included.
* `resources`: a phase takes as long as its busiest resource: the plain hierarchical roofline (HRM)
  of MoE-Lightning (arXiv 2411.11217, section 3): all flops of a processor, all bytes of a memory or
  a link at the sustained rate. It has no fixed costs and knows of no thread that copies pageable
  memory.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from schedules.errors import BadInput
from schedules.graph import FloatArray, TaskGraph
from sim.cost import Roofline, price
from sim.generation import Generation
from sim.result import Result

Bound = Literal["streams", "resources"]

UNKNOWN = ("pin", "pin_parallel")
"""Links that are no part of the HRM: copies of a thread within the host's memory."""


@dataclass(frozen=True)
class BoundTimes:
    """Seconds of a run: prefill, each decode step, and a decoder layer with experts on average.

    `moe_block_s` is None without decode steps or such layers.
    """

    prefill_s: float
    step_s: FloatArray
    moe_block_s: float | None

    @property
    def makespan_s(self) -> float:
        """All phases, one after the other."""
        return self.prefill_s + float(self.step_s.sum())


def bound_times(result: Result, by: Bound) -> BoundTimes:
    """Seconds of a simulated run by its busiest streams or resources.

    Raises `BadInput` where its tasks were not priced by a roofline.
    """
    generation = result.generation
    if not isinstance(generation.cost, Roofline):
        raise BadInput(f"only a roofline has bounds, not a {type(generation.cost).__name__}")
    layers = generation.schedule.node.model.decoder_layers
    moe = [spec.index for spec in layers if spec.is_moe]
    middle = [generation.step(max(1, generation.steps // 2))] if generation.steps else []
    phases = middle if generation.alike else result.movement.phases
    blocks = [_blocks_s(phase.graph, generation.cost, moe, by) for phase in phases if moe]
    mean = float(np.mean(blocks)) if blocks else None
    if by == "streams":
        steps = generation.decode[:, 1:].max(axis=1) if generation.steps else np.zeros(0)
        return BoundTimes(float(generation.prefill.totals[1:].max()), steps, mean)
    prefill = _totals(generation.prefill.graph, generation.cost).max()
    return BoundTimes(float(prefill), _steps_s(generation, generation.cost), mean)


def _steps_s(generation: Generation, cost: Roofline) -> FloatArray:
    """Seconds of each decode step by its busiest resource.

    Where steps differ in amounts of work alone, what they need of each resource is affine in the
    step.
    """
    last = generation.steps
    if not last:
        return np.zeros(0)
    if not generation.alike:
        graphs = [generation.step(step).graph for step in range(1, last + 1)]
        return np.array([_totals(graph, cost).max() for graph in graphs])
    ends = [_totals(generation.step(step).graph, cost) for step in (1, last)]
    share = np.linspace(0, 1, last)[:, None]
    return np.asarray((ends[0] + (ends[1] - ends[0]) * share).max(axis=1))


def _blocks_s(graph: TaskGraph, cost: Roofline, layers: Sequence[int], by: Bound) -> float:
    """Seconds of a layer on average, each by what is busiest in it."""
    needs = _by_stream(graph, cost) if by == "streams" else _by_resource(graph, cost)
    return float(np.mean([needs[graph.layer == layer].sum(axis=0).max() for layer in layers]))


def _totals(graph: TaskGraph, cost: Roofline) -> FloatArray:
    return np.asarray(_by_resource(graph, cost).sum(axis=0))


def _by_stream(graph: TaskGraph, cost: Roofline) -> FloatArray:
    """Seconds of each task on each stream, issuing it on its host's; shape (n, streams)."""
    seconds, issue = price(graph, cost)
    hosts = np.array([i for i, name in enumerate(graph.streams) if name.startswith("host")])
    columns = np.arange(len(graph.streams))
    found = (graph.stream[:, None] == columns) * seconds[:, None]
    return np.asarray(found + (hosts[graph.host][:, None] == columns) * issue[:, None])


def _by_resource(graph: TaskGraph, cost: Roofline) -> FloatArray:
    """Seconds that each task needs of each resource, shape (n, resources).

    The host's processor and memory are one resource; those of each GPU, and its links, its own.
    """
    known = [i for i, name in enumerate(cost.limit_names) if name not in UNKNOWN]
    limits = np.array([cost.limits(work) for work in graph.works])[graph.work][:, known]
    limits *= np.array([work.share for work in graph.works])[graph.work][:, None]
    on_cpu = np.array([work.device == "cpu" for work in graph.works], dtype=np.bool_)[graph.work]
    memory = [cost.limit_names[i] == "cpu" for i in known]  # all streams share that of the host
    numbers = [re.sub(r"\D", "", name) for name in graph.streams]
    places = {number: i for i, number in enumerate(dict.fromkeys(numbers))}
    gpu = np.array([places[number] for number in numbers])[graph.stream]
    found = [limits * memory, limits * np.logical_not(memory) * on_cpu[:, None]]
    own = limits * np.logical_not(memory) * ~on_cpu[:, None]
    found += [own * (gpu == i)[:, None] for i in places.values()]
    return np.concatenate(found, axis=1)

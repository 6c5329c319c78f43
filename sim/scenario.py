"""What is asked of the simulator: a model, a machine, a workload; and the node that results."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from schedules.batching import MicroBatch, balance, spread
from schedules.errors import BadInput, Infeasible
from schedules.graph import RecordingIssuer
from schedules.layer import LayerWork
from schedules.model import ModelSpec
from schedules.node import Node, gpu_names, stream_names
from schedules.policy import Policy
from schedules.routing import Routing
from schedules.schedule import Schedule
from schedules.task import Task
from schedules.workload import Workload
from sim.hardware import Hardware


@dataclass(frozen=True)
class Scenario:
    """A model on a machine with a workload.

    Parameters
    ----------
    gpus: GPUs to use, at most those of the machine; None: all that the schedule can use.
    routing: which experts the tokens take.
    """

    model: ModelSpec
    hardware: Hardware
    workload: Workload
    gpus: int | None = None
    routing: Routing = field(default_factory=Routing)

    def gpus_for(self, kind: type[Schedule]) -> int:
        """How many GPUs the schedule uses. Raises `BadInput` when there are not as many."""
        there = self.hardware.gpu.count
        if self.gpus is not None and not 1 <= self.gpus <= there:
            raise BadInput(
                f"{self.gpus} GPUs were asked for; hardware '{self.hardware.name}' has {there}"
            )
        if self.gpus is None:
            return there if kind.multi_gpu else 1
        return self.gpus


def place(scenario: Scenario, kind: type[Schedule], policy: Policy) -> Schedule:
    """The schedule on its node, with all memory taken.

    Raises `BadInput` for a policy that the schedule cannot follow, `Infeasible` when a pool is too
    small.
    """
    kind.check(policy, scenario.gpus_for(kind))
    _check_context(scenario)
    if policy.pinned is not None:
        return kind(_node(scenario, kind, policy, policy.pinned))
    if kind.pinned_default == "if_it_fits":
        try:
            return kind(_node(scenario, kind, policy, True))
        except Infeasible:
            pass  # pageable memory may do
    return kind(_node(scenario, kind, policy, False))


def _node(scenario: Scenario, kind: type[Schedule], policy: Policy, pinned: bool) -> Node:
    """The node as the schedule finds it: streams, empty pools, micro-batches."""
    gpus, routing = scenario.gpus_for(kind), scenario.routing
    split = gpus if kind.multi_gpu == "tensor" else 1
    own_cpu = kind.multi_gpu == "pipeline" and gpus > 1
    cores = 1 / gpus if own_cpu else 1.0
    work = LayerWork(scenario.model, routing, kind.kernels, split, cores)
    batches = _batches(scenario, kind, policy, gpus)
    pools = scenario.hardware.capacities()
    device = pools.pop("gpu")
    pools |= {gpu.pool: device for gpu in gpu_names(gpus)}

    def trace(gate: Task) -> NDArray[np.int64]:
        batch, model = batches[gate.micro_batch], scenario.model
        tokens = batch.prompt_tokens if gate.step == 0 else batch.size
        return routing.trace(tokens, model.n_experts, model.top_k, gate)

    issuer = RecordingIssuer(stream_names(gpus, own_cpu), pools, gpus, trace)
    gen_len = scenario.workload.gen_len
    return Node(issuer, scenario.model, policy, batches, work, gpus, gen_len, pinned)


def _batches(
    scenario: Scenario, kind: type[Schedule], policy: Policy, gpus: int
) -> tuple[MicroBatch, ...]:
    """The batch in micro-batches; data-parallel GPUs get one each.

    A pipeline splits each micro-batch over its turns, so it holds a sequence for each of them.
    """
    lengths = scenario.workload.lengths(policy.N)
    if kind.multi_gpu != "data":
        return balance(lengths, max(policy.mu, gpus) if kind.multi_gpu == "pipeline" else policy.mu)
    if gpus > policy.N:
        raise BadInput(f"schedule '{kind.name}' needs N >= {gpus}, a sequence for each GPU")
    return spread(lengths, gpus, -(-policy.N // gpus))


def _check_context(scenario: Scenario) -> None:
    model, workload = scenario.model, scenario.workload
    if model.is_encoder_decoder:
        return  # relative positions have no limit
    longest = workload.longest + workload.gen_len
    if longest > model.max_context:
        raise BadInput(
            f"workload '{workload.name}' needs {longest} positions (longest prompt "
            f"{workload.longest} + {workload.gen_len} generated); model '{model.name}' has "
            f"{model.max_context}"
        )

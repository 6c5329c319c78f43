"""A decode step in the middle of a generation, and what its tasks need."""

from dataclasses import dataclass, replace

from schedules.errors import BadInput
from schedules.graph import FloatArray, TaskGraph
from schedules.policy import Policy
from schedules.schedule import Schedule
from sim.compiled import simulate_graph
from sim.cost import Roofline, price
from sim.generation import issue_phase
from sim.optimal.flow import AccessIssuer, Flow, flow
from sim.scenario import Scenario, place
from sim.times import Run


@dataclass(frozen=True, eq=False, slots=True)
class Recorded:
    """A decode step.

    Parameters
    ----------
    graph: its tasks. first: the number of the first of them in `flow`. step: which one it is.
    duration_s: seconds of each task. run: when they run in the schedule's order, where issuing and
        waiting cost nothing. issued_s: the makespan where they cost what they do.
    """

    graph: TaskGraph
    duration_s: FloatArray
    flow: Flow
    first: int
    step: int
    run: Run
    issued_s: float


def cut(
    scenario: Scenario, kind: type[Schedule], policy: Policy, layers: int, batches: int | None
) -> tuple[Scenario, Policy]:
    """The model with so many decoder layers, the batch with so many micro-batches.

    What the policy leaves to the schedule's own rule (whether host memory is page-locked) is as for
    the whole. Raises `BadInput` for more micro-batches than there are, or fewer than one.
    """
    there = policy.n_micro_batches
    if batches is not None and not 1 <= batches <= there:
        raise BadInput(f"{batches} micro-batches were asked for; the batch has {there}, at least 1")
    if "pinned" in kind.knobs and policy.pinned is None:
        pinned = place(scenario, kind, policy).node.pinned
        policy = policy.model_copy(update={"pinned": pinned})
    if batches is not None and batches < there:
        policy = policy.model_copy(update={"N": batches * policy.mu})
    return replace(scenario, model=scenario.model.with_layers(layers)), policy


def recorded(scenario: Scenario, kind: type[Schedule], policy: Policy) -> Recorded:
    """The middle decode step, between two others like it.

    Raises `BadInput` when nothing is decoded, `Infeasible` when it does not fit.
    """
    schedule = place(scenario, kind, policy, AccessIssuer)
    issuer = schedule.node.issuer
    assert isinstance(issuer, AccessIssuer)
    steps = kind.n_decode_steps(scenario.model.is_encoder_decoder, scenario.workload.gen_len)
    if steps < 1:
        raise BadInput(
            f"a generation of {scenario.workload.gen_len} token has no decode step to be ordered; "
            "give --gen-len 2 or more"
        )
    step = (1 + steps) // 2
    issue_phase(schedule, 0)
    issuer.forget()
    before = issue_phase(schedule, step)
    graph = issue_phase(schedule, step)
    issue_phase(schedule, step)
    cost = Roofline(scenario.hardware, scenario.gpus_for(kind))
    duration_s, issue_s = price(graph, cost)
    return Recorded(
        graph,
        duration_s,
        flow(issuer.accesses),
        len(before),
        step,
        simulate_graph(graph, duration_s),
        simulate_graph(graph, duration_s, issue_s, cost.sync_s).makespan_s,
    )

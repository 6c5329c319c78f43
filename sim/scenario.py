"""What is asked of the simulator: a model, a machine, a workload; and the node that results."""

from dataclasses import dataclass, field

from schedules.batching import MicroBatch
from schedules.errors import BadInput
from schedules.graph import RecordingIssuer
from schedules.issuer import Issuer
from schedules.kernels import Kernels
from schedules.model import ModelSpec
from schedules.modifiers import Modifiers
from schedules.placing import Capacities, Placement
from schedules.placing import place as place_on_node
from schedules.policy import Policy
from schedules.routing import Routing
from schedules.routing_trace import routing_trace
from schedules.schedule import Schedule
from schedules.workload import Workload
from sim.hardware import Hardware, hardware_names, load_hardware


@dataclass(frozen=True)
class Scenario:
    """A model on a machine with a workload.

    Parameters
    ----------
    gpus: GPUs to use, at most those of the machine; None: all that the schedule can use.
    routing: which experts the tokens take.
    kernels: which kernels run; None: those of each schedule's published implementation.
    modifiers: what has been changed of the model, which has them already, and where it lies.
    engine: which engine simulates, by a name of `sim.engines`.
    """

    model: ModelSpec
    hardware: Hardware
    workload: Workload
    gpus: int | None = None
    routing: Routing = field(default_factory=Routing)
    kernels: Kernels | None = None
    modifiers: Modifiers = field(default_factory=Modifiers)
    engine: str = "compiled"

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


def place(
    scenario: Scenario,
    kind: type[Schedule],
    policy: Policy,
    recorder: type[RecordingIssuer] | None = None,
) -> Schedule:
    """The schedule on its node, with all memory taken; `recorder` takes its tasks.

    Raises `BadInput` for a policy that the schedule cannot follow, `Infeasible` when a pool is too
    small.
    """
    workload, gpus = scenario.workload, scenario.gpus_for(kind)
    kind.check(policy, gpus)
    _check_context(scenario)
    _check_disk(scenario)

    def open_issuer(
        streams: tuple[str, ...],
        capacities: Capacities,
        hosts: int,
        batches: tuple[MicroBatch, ...],
    ) -> Issuer:
        trace = routing_trace(scenario.routing, scenario.model, batches, scenario.workload.gen_len)
        return (recorder or RecordingIssuer)(streams, capacities, hosts, trace)

    return place_on_node(
        kind,
        Placement(
            model=scenario.model,
            policy=policy,
            lengths=workload.lengths(policy.N),
            gen_len=workload.gen_len,
            capacities=scenario.hardware.capacities(),
            open_issuer=open_issuer,
            gpus=gpus,
            routing=scenario.routing,
            kernels=scenario.kernels,
            ssd=scenario.modifiers.ssd,
        ),
    )


def _check_disk(scenario: Scenario) -> None:
    if scenario.modifiers.ssd and scenario.hardware.disk is None:
        presets = [name for name in hardware_names() if load_hardware(name).disk is not None]
        raise BadInput(
            f"modifier 'ssd' needs a disk, and hardware '{scenario.hardware.name}' has none; give "
            f"it [disk] and [links.disk], or take one that has a disk: {', '.join(presets)}"
        )


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

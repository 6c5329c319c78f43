"""What is asked of the simulator: a model, a machine, a workload; and the node that results."""

from dataclasses import dataclass, field

from schedules.batching import balance, spread
from schedules.errors import BadInput
from schedules.graph import RecordingIssuer
from schedules.layer import LayerWork
from schedules.model import ModelSpec
from schedules.node import Node, gpu_names, stream_names
from schedules.policy import Policy
from schedules.routing import Routing
from schedules.schedule import Schedule
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
    gpus = scenario.gpus_for(kind)
    kind.check(policy, gpus)
    _check_context(scenario)
    split = gpus if kind.multi_gpu == "tensor" else 1
    own_cpu = kind.multi_gpu == "pipeline" and gpus > 1
    work = LayerWork(
        scenario.model, scenario.routing, kind.kernels, split, 1 / gpus if own_cpu else 1.0
    )
    pools = scenario.hardware.capacities()
    device = pools.pop("gpu")
    pools |= {gpu.pool: device for gpu in gpu_names(gpus)}
    issuer = RecordingIssuer(stream_names(gpus, own_cpu), pools, hosts=gpus)
    lengths = scenario.workload.lengths(policy.N)
    batches = balance(lengths, policy.mu)
    if kind.multi_gpu == "data":
        if gpus > policy.N:
            raise BadInput(f"schedule '{kind.name}' needs N >= {gpus}, a sequence for each GPU")
        batches = spread(lengths, gpus, -(-policy.N // gpus))
    pinned = policy.pinned
    if pinned is None:
        weights = sum(work.layer_bytes(s) for s in scenario.model.decoder_layers) * split
        pinned = kind.pinned_default == "if_it_fits" and weights <= pools["pinned"]
    gen_len = scenario.workload.gen_len
    return kind(Node(issuer, scenario.model, policy, batches, work, gpus, gen_len, pinned))


def _check_context(scenario: Scenario) -> None:
    model, workload = scenario.model, scenario.workload
    longest = workload.gen_len if model.is_encoder_decoder else workload.longest + workload.gen_len
    if longest > model.max_context and model.learned_positions:
        raise BadInput(
            f"workload '{workload.name}' needs {longest} positions (longest prompt "
            f"{workload.longest} + {workload.gen_len} generated); model '{model.name}' has "
            f"{model.max_context}"
        )

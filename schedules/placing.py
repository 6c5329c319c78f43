"""A schedule on its node: the same for the simulator and for the runtime."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from schedules.batching import MicroBatch, balance, spread
from schedules.disk_tier import DiskTier, SsdMode
from schedules.errors import BadInput, Infeasible
from schedules.issuer import Issuer
from schedules.kernels import Kernels
from schedules.layer import LayerWork
from schedules.model import ModelSpec
from schedules.node import Node, gpu_names, stream_names
from schedules.policy import Policy
from schedules.quantisation import Quantisation
from schedules.routing import Routing
from schedules.schedule import Schedule

Capacities = Mapping[str, int]
OpenIssuer = Callable[[tuple[str, ...], Capacities, int, tuple[MicroBatch, ...]], Issuer]
"""Makes the issuer from streams, bytes of each pool, number of issuing threads, micro-batches."""


@dataclass(frozen=True)
class Placement:
    """What decides a node.

    Parameters
    ----------
    lengths: prompt lengths of the batch, in tokens.
    gen_len: tokens to generate for each sequence.
    capacities: bytes of the pools `gpu` (of each GPU), `cpu`, `pinned` and `disk`.
    gpus: how many GPUs.
    kernels: which kernels run; None: those of the schedule's published implementation.
    ssd: weights of host memory lie on the disk, and are read from it so (`DiskTier`); None: they do
        not.
    """

    model: ModelSpec
    policy: Policy
    lengths: tuple[int, ...]
    gen_len: int
    capacities: Capacities
    open_issuer: OpenIssuer
    gpus: int = 1
    routing: Routing = field(default_factory=Routing)
    kernels: Kernels | None = None
    ssd: SsdMode | None = None


def place(kind: type[Schedule], given: Placement) -> Schedule:
    """The schedule on its node, with all memory taken.

    Raises `BadInput` for a policy that the schedule cannot follow, `Infeasible` when a pool is too
    small.
    """
    kind.check(given.policy, given.gpus)
    _check_modifiers(kind, given)
    _check_context(given)
    if given.policy.pinned is not None:
        return _placed(kind, given, given.policy.pinned)
    if kind.pinned_default == "if_it_fits":
        try:
            return _placed(kind, given, True)
        except Infeasible:
            pass  # pageable memory may do
    return _placed(kind, given, False)


def _placed(kind: type[Schedule], given: Placement, pinned: bool) -> Schedule:
    """The schedule with its memory, and behind it the staging of an SSD tier."""
    schedule = kind(make_node(kind, given, pinned))
    if tier := schedule.node.issuer.tier:
        tier.reserve()
    return schedule


def make_node(kind: type[Schedule], given: Placement, pinned: bool) -> Node:
    """The node as the schedule finds it: streams, empty pools, micro-batches."""
    gpus = given.gpus
    split = gpus if kind.multi_gpu == "tensor" else 1
    own_cpu = kind.multi_gpu == "pipeline" and gpus > 1
    kernels = given.kernels or kind.kernels
    work = LayerWork(given.model, given.routing, kernels, split, 1 / gpus if own_cpu else 1.0)
    batches = _batches(kind, given)
    pools = dict(given.capacities)
    device = pools.pop("gpu")
    pools |= {gpu.pool: device for gpu in gpu_names(gpus)}
    issuer = given.open_issuer(stream_names(gpus, own_cpu), pools, gpus, batches)
    if given.ssd:
        issuer.tier = DiskTier(issuer, work, given.ssd, kind)
    return Node(issuer, given.model, given.policy, batches, work, gpus, given.gen_len, pinned)


def _batches(kind: type[Schedule], given: Placement) -> tuple[MicroBatch, ...]:
    """The batch in micro-batches; data-parallel GPUs get one each.

    A pipeline that splits each micro-batch over its turns holds a sequence for each of them.
    """
    gpus, policy = given.gpus, given.policy
    if kind.multi_gpu != "data":
        split = kind.multi_gpu == "pipeline" and kind.in_turns
        mu = max(policy.mu, gpus) if split else policy.mu
        return balance(given.lengths, mu)
    if gpus > policy.N:
        raise BadInput(f"schedule '{kind.name}' needs N >= {gpus}, a sequence for each GPU")
    return spread(given.lengths, gpus, -(-policy.N // gpus))


def _check_modifiers(kind: type[Schedule], given: Placement) -> None:
    """Raise `BadInput` for a modifier where the schedule decides the same by itself."""
    bits = given.model.quantisation or Quantisation()
    by = "weights" if bits.dense else "experts"  # the former is about experts too
    for name, modifier, asked, what in (
        ("experts", by, bits.experts, "in how many bits experts are"),
        ("skip", "skip", given.model.skip_below, "which choices count"),
        ("ssd", "ssd", given.ssd, "where weights lie"),
    ):
        if asked and name in kind.decides:
            raise BadInput(
                f"schedule '{kind.name}' decides by itself {what}; "
                f"leave the modifier '{modifier}' out"
            )


def _check_context(given: Placement) -> None:
    model = given.model
    if model.is_encoder_decoder:
        return  # relative positions have no limit
    longest = max(given.lengths) + given.gen_len
    if longest > model.max_context:
        raise BadInput(
            f"{longest} positions are needed (longest prompt {max(given.lengths)} + "
            f"{given.gen_len} generated); model '{model.name}' has {model.max_context}"
        )

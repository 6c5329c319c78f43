"""A schedule on this machine's memory, before and while it runs."""

from collections.abc import Sequence

from runtime.described import described
from runtime.device import CUDA_RESERVE_BYTES, DeviceOptions
from schedules.batching import MicroBatch
from schedules.errors import BadInput, MoelabError
from schedules.graph import RecordingIssuer
from schedules.issuer import Issuer
from schedules.kernels import Kernels
from schedules.model import ModelSpec
from schedules.placing import Capacities, OpenIssuer, Placement, place
from schedules.policy import Policy
from schedules.schedule import Schedule, runnable

KERNELS = Kernels(experts="loop", cpu_attention="native", logits="last", gathers=False)
"""The kernels of the runtime, for all schedules alike: experts by token count without padding,
each cached element read once, logits of last positions, weights copied to where they are used."""


def budget_bytes(options: DeviceOptions) -> int:
    """Device memory for buffers. Raises `BadInput` when CUDA's own needs leave none."""
    reserve = CUDA_RESERVE_BYTES if options.device == "cuda" else 0
    if options.gpu_memory_bytes <= reserve:
        raise BadInput(
            f"--gpu-memory must be more than {CUDA_RESERVE_BYTES >> 20} MiB on a CUDA device"
        )
    return options.gpu_memory_bytes - reserve


def placement(
    model: ModelSpec,
    policy: Policy,
    lengths: Sequence[int],
    gen_len: int,
    options: DeviceOptions,
    gpus: int,
    open_issuer: OpenIssuer,
) -> Placement:
    """What decides the node of a session: prompts of these lengths, this machine's memory."""
    host = options.host_memory_bytes
    return Placement(
        model=model,
        policy=policy,
        lengths=tuple(lengths),
        gen_len=gen_len,
        capacities={"gpu": budget_bytes(options), "cpu": host, "pinned": host, "disk": 0},
        open_issuer=open_issuer,
        gpus=gpus,
        kernels=KERNELS,
    )


def placed(kind: type[Schedule], given: Placement) -> Schedule:
    """The schedule on its node. Raises `MoelabError` also for a mistake in its own program."""
    try:
        return place(kind, given)
    except MoelabError:
        raise
    except Exception as error:
        raise MoelabError(
            f"schedule '{kind.name}' cannot take its memory: {described(error)}"
        ) from error


def check_schedule(kind: type[Schedule], policy: Policy, gpus: int) -> None:
    """Raise `BadInput` for a policy, or a number of GPUs, that the runtime cannot run."""
    if not kind.for_real:
        raise BadInput(
            f"schedule '{kind.name}' is simulated only: the runtime has not all of its operations; "
            f"those that run: {', '.join(runnable())}"
        )
    kind.check(policy, gpus)
    if policy.accuracy is not None:
        raise BadInput(
            f"policy: accuracy = {policy.accuracy} says how often simulated predictions are right; "
            "real ones are as right as they are: leave it out"
        )
    if policy.deferred:
        raise BadInput(
            f"policy: deferred = {policy.deferred} changes what '{kind.name}' computes, which is "
            "simulated only; the runtime takes deferred = 0"
        )
    if gpus > 1 and kind.multi_gpu != "tensor":
        raise BadInput(
            f"schedule '{kind.name}' runs on one GPU; on several only tensor-parallel ones run"
        )


def check_memory(
    kind: type[Schedule],
    model: ModelSpec,
    policy: Policy,
    lengths: Sequence[int],
    gen_len: int,
    options: DeviceOptions,
    gpus: int = 1,
) -> None:
    """Raise `Infeasible` when a pool is too small, in a moment and before any weight is read."""

    def open_issuer(
        streams: tuple[str, ...],
        capacities: Capacities,
        hosts: int,
        batches: tuple[MicroBatch, ...],
    ) -> Issuer:
        return RecordingIssuer(streams, capacities, hosts)

    placed(kind, placement(model, policy, lengths, gen_len, options, gpus, open_issuer))

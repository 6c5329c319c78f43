"""The issuing thread waits for an FFN and does its own work before it goes on."""

from schedules.model import LayerSpec
from schedules.node import GpuNames, Node
from schedules.task import Buffer, Work

ONCE = Work(device="host", calls=1)


def synchronise(node: Node, gpu: GpuNames, written: Buffer, spec: LayerSpec) -> None:
    """Issue what the system of Pre-gated MoE does after every FFN with experts.

    The thread waits until `written` is there, and then books which experts may leave, while the
    GPU has nothing to do (`host.ffn_s` of the hardware).
    """
    node.issuer.task("synchronise", gpu.host, [written], [], ONCE, spec.index, 0)

"""The issuing thread waits for a gate, or an FFN, and does its own work before it goes on."""

from schedules.model import LayerSpec
from schedules.node import GpuNames, Node
from schedules.task import Buffer, Work

ONCE = Work(device="host", calls=1)


def synchronise(node: Node, gpu: GpuNames, written: Buffer, spec: LayerSpec) -> None:
    """Issue what the system of Pre-gated MoE does on the host around every FFN with experts.

    The thread waits until `written` is there (the gate's choices, or the FFN's output), and then
    books which experts come, or may leave (`host.ffn_s` of the hardware). It issues nothing else.
    """
    node.issuer.task("synchronise", gpu.host, [written], [], ONCE, spec.index, 0)

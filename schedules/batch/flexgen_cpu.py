"""FlexGen with CPU attention."""

from schedules.batch.flexgen import FlexGen


class FlexGenCPU(FlexGen):
    """FlexGen's zig-zag with the attention core on the CPU (FlexGen, section 4.2).

    The KV cache stays in host memory. The issuing thread waits for the CPU's attention, so it
    overlaps with nothing on the GPU.
    """

    name = "flexgen-cpu"
    title = "FlexGen with CPU attention, which the GPU waits for"
    paper = "FlexGen, arXiv 2303.06865, section 4.2"
    knobs = frozenset({"r_w", "r_h", "pinned"})
    attention_on_cpu = True

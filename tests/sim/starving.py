"""Schedules with a fault each, as a user may write them: they take too much, or wait in vain."""

from typing import ClassVar

from schedules.node import Node
from schedules.schedule import Schedule
from schedules.task import Buffer, Task

GB = 10**9


class Faulty(Schedule):
    """Copies each layer to the GPU and computes there; what is wrong, the others add."""

    name = "faulty"
    title = "a schedule with a fault"
    paper = "tests"
    place_bytes: ClassVar[float] = GB

    def __init__(self, node: Node) -> None:
        super().__init__(node)
        (self.gpu,) = node.gpus
        self.home = node.on_host("host weights", 10 * GB)
        self.place = node.on_gpu(self.gpu, "place", self.place_bytes)

    def prefill(self) -> None:
        for slot in self.node.slots():
            self.layer(slot.layer, slot.micro_batch)

    decode_step = prefill

    def layer(self, layer: int, micro_batch: int) -> None:
        self.copy(layer, micro_batch)
        self.node.issuer.task("compute", "gpu", [self.place], [], layer=layer)

    def copy(self, layer: int, micro_batch: int) -> Task:
        return self.node.issuer.task(
            "load", "h2d", [self.home], [self.place], layer=layer, micro_batch=micro_batch
        )


class TooLarge(Faulty):
    """Its place on the GPU is larger than the GPU."""

    name = "too-large"
    place_bytes = 40 * GB


class TooLargeAtWork(Faulty):
    """It asks for room when it has issued tasks already, and there is not enough."""

    name = "too-large-at-work"

    def layer(self, layer: int, micro_batch: int) -> None:
        super().layer(layer, micro_batch)
        if self.node.step == 1:
            self.node.on_gpu(self.gpu, "workspace", 15 * GB)


class Leak(Faulty):
    """Each decode step takes a page of the KV cache, and none gives one back."""

    name = "leak"

    def decode_step(self) -> None:
        page = self.page()
        self.node.issuer.task("store_kv", "d2h", [self.place], [page], layer=0, micro_batch=0)

    def page(self) -> Buffer:
        return self.node.on_gpu(self.gpu, f"KV page[{self.node.step}]", GB)


class LeakByLayer(Faulty):
    """Each layer of the prompts takes a page and keeps it; there are more layers than pages."""

    name = "leak-by-layer"

    def layer(self, layer: int, micro_batch: int) -> None:
        page = self.node.on_gpu(self.gpu, f"KV page[{layer}]", GB)
        self.node.issuer.task("store_kv", "d2h", [self.place], [page], layer=layer)


class WaitsAhead(Faulty):
    """Its thread waits for the copy that it issues next."""

    name = "waits-ahead"

    def layer(self, layer: int, micro_batch: int) -> None:
        copy = self.copy(layer, micro_batch)
        self.node.issuer.wait(copy._replace(number=copy.number + 1, layer=layer + 1))


class ReadsWhatIsGone(Faulty):
    """It frees its place while it still means to use it."""

    name = "reads-what-is-gone"

    def decode_step(self) -> None:
        self.copy(0, 0)
        self.node.issuer.free(self.place)
        self.copy(1, 0)


ALL = (TooLarge, TooLargeAtWork, Leak, LeakByLayer, WaitsAhead, ReadsWhatIsGone)

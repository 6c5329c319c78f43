"""What the schedules share that compute experts on the CPU: tokens go there, outputs come back."""

from abc import abstractmethod

from schedules.contents import Span
from schedules.expert.moving import MovesExperts
from schedules.expert.places import CachedPlaces, Places
from schedules.model import LayerSpec
from schedules.node import Slot
from schedules.task import Buffer, Task, Work


class ExpertsOnCPU(MovesExperts):
    """The CPU reads experts where they are, in host memory, and sums up what they make of a token.

    An encoder's experts are treated as a decoder's are.
    """

    turns = 1  # buffers of what goes to the CPU and what comes back
    pins_tokens = False  # these are page-locked even where weights are not

    @abstractmethod
    def ffn(self, spec: LayerSpec, tokens: float, after: Work | None) -> None:
        """The FFN of a layer with experts, and `after` it the output head, if any."""

    def moe(self, slot: Slot, spec: LayerSpec, tokens: float, after: Work | None) -> None:
        self.ffn(spec, tokens, after)

    def when_named(
        self, spec: LayerSpec, tokens: float, after: Work | None, places: Places | CachedPlaces
    ) -> None:
        self.ffn(spec, tokens, after)

    def _encoder_places(self, tokens: float) -> Places:
        return self._places("encoder ", [], 0)

    def make_room(self) -> None:
        node, work, tokens = self.node, self.node.work, self.node.widest.prompt_tokens
        hidden = work.hidden_bytes(tokens)
        sent = max((work.sent_bytes(spec, tokens) for spec in self.moe_layers), default=0.0)
        turns = range(self.turns)
        self.link = "" if self.pins_tokens or node.pinned else "_pageable"
        locked = not self.link
        self.sent = [node.on_host(f"sent[{i}]", sent, locked) for i in turns]
        self.outputs = [node.on_host(f"outputs[{i}]", hidden, locked) for i in turns]
        self.returned = [node.on_gpu(self.gpu, f"returned[{i}]", hidden) for i in turns]
        self.sum = node.on_gpu(self.gpu, "expert sum", hidden)  # of those on the GPU

    # -- the parts of an FFN --------------------------------------------------------------------

    def send(
        self, spec: LayerSpec, tokens: float, turn: int = 0, what: tuple[Span, ...] = ()
    ) -> None:
        """Normed hidden states, expert ids and gate weights of so many tokens to the CPU.

        `what` says which experts they are the tokens of; nothing: all tokens go.
        """
        work = self.node.work.copy(f"d2h{self.link}", self.node.work.sent_bytes(spec, tokens))
        reads, writes = [self.x, self.routed], [self.sent[turn]]
        self.node.issuer.task("send_tokens", self.gpu.d2h, reads, writes, work, spec.index, 0, what)

    def on_cpu(
        self,
        op: str,
        spec: LayerSpec,
        distinct: float,
        rows: float,
        turns: tuple[int, int] = (0, 0),
        what: tuple[Span, ...] = (),
    ) -> Task:
        """Add the outputs of `distinct` experts for `rows` choices to those of the second turn.

        `what` says which experts; nothing: all that the tokens of the first turn have chosen.
        """
        work = self.node.work.cpu_experts(spec, distinct, rows)
        reads, writes = [self.sent[turns[0]], self.home[spec]], [self.outputs[turns[1]]]
        return self.node.issuer.task(op, "cpu", reads, writes, work, spec.index, 0, what)

    def fetch(self, spec: LayerSpec, tokens: float, turn: int = 0) -> Buffer:
        """What the CPU has computed, to the GPU; returns where it is there."""
        work = self.node.work.copy(f"h2d{self.link}", self.node.work.hidden_bytes(tokens))
        reads, writes = [self.outputs[turn]], [self.returned[turn]]
        self.node.issuer.task("load_outputs", self.gpu.h2d, reads, writes, work, spec.index, 0)
        return self.returned[turn]

    def shared(self, spec: LayerSpec, tokens: float) -> list[Buffer]:
        """The experts that every token takes, on the GPU; returns where their sum is."""
        if not spec.shared_parameters:
            return []
        work = self.node.work.shared_experts(spec, tokens)
        self.compute("shared_experts", spec, [self.x], [self.sum], work)
        return [self.sum]

    def combine(
        self, spec: LayerSpec, tokens: float, parts: list[Buffer], after: Work | None
    ) -> None:
        """Add up the outputs and the residual; then the output head, if any."""
        add = self.node.work.add_outputs(tokens, len(parts))
        work = self.node.work.join(add, after)
        self.compute("combine", spec, [self.x, *parts], [self.x], work)

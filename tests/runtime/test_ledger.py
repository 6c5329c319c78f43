"""Schedules that forget something, or do what cannot be done: refused, with the reason.

Without the ledger and the page table they would go on with what lay there before, and the tokens
would be wrong.
"""

import pytest

from runtime.checkpoint import Checkpoint
from schedules.batch.cgopipe import CGOPipe
from schedules.batch.flexgen import FlexGen
from schedules.batch.zigzag import Stage
from schedules.errors import BadInput, MoelabError
from schedules.expert.on_demand import OnDemand
from schedules.schedule import Schedule
from tests.runtime.checkpoints import save_checkpoint
from tests.runtime.faults import generate


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Four layers: more than any buffer of a schedule holds at once."""
    folder = tmp_path_factory.mktemp("model")
    return Checkpoint(save_checkpoint(folder, "mixtral", num_hidden_layers=4))


# -- schedules that forget something ---------------------------------------------------------------


def without(kind: type[Schedule], *methods: str) -> type[Schedule]:
    """A schedule whose methods do nothing."""
    return type(kind.__name__, (kind,), dict.fromkeys(methods, lambda *_, **__: None))


def flexgen_without(method: str) -> type[Schedule]:
    """FlexGen, one action of which does nothing."""
    stage = type("Lazy", (Stage,), {method: lambda *_: None})

    class Lazy(FlexGen):
        def __init__(self, node):
            Schedule.__init__(self, node)
            self.stages = [stage(node, gpu, self.attention_on_cpu) for gpu in node.gpus]

    return Lazy


class NotAll(OnDemand):
    """Brings all experts but one."""

    def load(self, spec, expert, place):
        if expert != 1:
            super().load(spec, expert, place)


class NotAllPages(CGOPipe):
    """Brings all pages but one."""

    def load_weights(self, slot):
        if slot.micro_batch != 1:
            super().load_weights(slot)


class NoWeightsInPrefill(CGOPipe):
    """Prefills with nothing loaded."""

    def prefill(self):
        self.weights.load = lambda *_, **__: None
        super().prefill()


class NoStore(CGOPipe):
    """Computes with the cache on the GPU, and leaves the new tokens there."""

    def __init__(self, node):
        super().__init__(node)
        self.prefetch.store = lambda _: None


class NotAllLayers(CGOPipe):
    """Leaves out a layer of one micro-batch."""

    def compute(self, slot):
        if tuple(slot) != (1, 1):
            super().compute(slot)


class NoGate(OnDemand):
    """Runs the experts of the layer before."""

    def compute(self, op, spec, reads, writes, work):
        if op == "gate" and spec.index == 2:
            return self.last
        self.last = super().compute(op, spec, reads, writes, work)
        return self.last


NOT_BROUGHT = "layer . has .* of .* rows of its matrix '.*' on the device: the schedule did not br"
FORGETFUL = {
    "pages": (without(CGOPipe, "load_weights"), {}, NOT_BROUGHT),
    "a page": (NotAllPages, {}, NOT_BROUGHT),
    "staging": (without(CGOPipe, "pin"), {}, "is copied from buffer 'staging.*', which holds noth"),
    "weights in prefill": (NoWeightsInPrefill, {}, NOT_BROUGHT),
    "layers": (flexgen_without("load_weight"), {}, NOT_BROUGHT),
    "experts": (without(OnDemand, "load"), {}, NOT_BROUGHT),
    "an expert": (NotAll, {}, "rows .* of matrix 'gate' are not on the device"),
    "prefetch": (without(CGOPipe, "start"), {"A_g": 1}, "the cache of 1 of 1 sequences of layer 0"),
    "cache": (flexgen_without("load_cache"), {}, "the cache of 1 of 1 sequences of layer 0 is not"),
    "store": (
        NoStore,
        {"A_g": 1},
        r"task 'load_kv' needs the cached tokens of layer 0 \(micro-batch 0\) up to step 1, but "
        r"buffer 'KV\[0,0\]' holds those up to step 0",
    ),
    "store in prefill": (
        flexgen_without("store_cache"),
        {},
        r"task 'pin_kv' needs the cached tokens of layer 0 \(micro-batch 0\) up to step 0, but "
        r"buffer 'KV\[0,0,0\]' holds none",
    ),
    "attention": (
        without(CGOPipe, "start"),
        {},
        r"task 'load_hidden' needs the attention outputs of layer 0 \(micro-batch 0, step 1\), but "
        r"buffer 'attended\[0\]' holds nothing",
    ),
    "attention outputs": (
        without(CGOPipe, "load"),
        {},
        r"task 'post_attention' needs the attention outputs of layer 0 \(micro-batch 0, step 1\), "
        r"but buffer 'attended\[0\]' holds nothing",
    ),
    "hidden states": (
        flexgen_without("store_hidden"),
        {},
        r"task 'load_hidden' needs the hidden states before layer 0 \(micro-batch 0, step 0\), but",
    ),
    "hidden states to the GPU": (
        flexgen_without("load_hidden"),
        {"mu": 1},  # more micro-batches than the GPU has places for
        r"needs the hidden states .* holds the hidden states ",
    ),
    "a layer": (
        NotAllLayers,
        {},
        r"needs the hidden states before layer 2 \(micro-batch 1, step 1",
    ),
    "a gate": (
        NoGate,
        {},
        r"task 'experts' needs the choices of the gate of layer 2 .* holds the choices of the gate "
        r"of layer 1 \(micro-batch 0, step 0\): the schedule did not compute them, or did not br",
    ),
    "prefill": (
        without(CGOPipe, "prefill"),
        {},
        "step 0 ended before micro-batch 0 had passed all",
    ),
    "decoding": (without(CGOPipe, "decode_step"), {}, "step 1 ended before micro-batch 0 had pass"),
}


@pytest.mark.parametrize("what", FORGETFUL)
def test_a_schedule_that_forgets_something(source, what):
    """It would go on with what lay there before, and the tokens would be wrong."""
    kind, policy, said = FORGETFUL[what]
    with pytest.raises(MoelabError, match=said):
        generate(kind, source, **policy)


# -- schedules that do what cannot be done ---------------------------------------------------------


class Extra(CGOPipe):
    """Does something after each layer."""

    def compute(self, slot):
        super().compute(slot)
        self.more(slot)


class OwnOperation(Extra):
    def more(self, slot):
        self.node.issuer.task("dance", "gpu")


class OwnStream(Extra):
    def more(self, slot):
        self.node.issuer.task("post_attention", "gpus")


class NoOperands(Extra):
    def more(self, slot):
        self.node.issuer.task("pre_attention", "gpu", layer=0, micro_batch=0)


class Freed(Extra):
    def more(self, slot):
        buffer = self.node.on_gpu(self.node.gpus[0], "extra", 16.0)
        self.node.issuer.free(buffer)
        self.node.issuer.task("load_hidden", "h2d", [buffer], [buffer], layer=0, micro_batch=0)


class Mistaken(Extra):
    def more(self, slot):
        return {}[slot.layer]


@pytest.mark.parametrize(
    ("kind", "error", "said"),
    [
        (OwnOperation, MoelabError, "the runtime has no operation 'dance'"),
        (OwnStream, BadInput, "task 'post_attention': no stream 'gpus', did you mean 'gpu'"),
        (NoOperands, MoelabError, r"task 'pre_attention' \(layer 0, step 1\) cannot run: "),
        (Freed, MoelabError, "buffer 'extra' is used by task .*, but was freed"),
        (Mistaken, MoelabError, "schedule 'cgopipe' failed in decode step 1: KeyError: 0"),
    ],
)
def test_a_schedule_with_a_mistake(source, kind, error, said):
    with pytest.raises(error, match=said):
        generate(kind, source)

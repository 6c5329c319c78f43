"""MoE-Lens: prefill and decode share each pass, and two groups take turns on CPU and GPU."""

from schedules.activations import keep_resident
from schedules.batching import balance
from schedules.expert.mixing import Group, Share
from schedules.kernels import Kernels
from schedules.node import Node, Slot
from schedules.schedule import Schedule
from schedules.streaming import StreamedWeights
from schedules.task import Buffer, Work

GROUPS = 2  # alpha and beta


class MoELens(Schedule):
    """Prefill and decode overlapped in a versatile pipeline (MoE-Lens, arXiv 2504.09345, sec. 6).

    A pass reads the prompts of some sequences and decodes a token of all others, so each copy of
    the weights serves both. The sequences are in two groups: while the CPU attends for one, over
    the KV cache in host memory, the GPU computes output projection and experts of the other, and
    its projections and the attention of its prompts in the next layer. A layer's weights come
    during the layer before, one part behind each group's attention results.

    What is simulated is the steady state: N sequences at all ages, whose successors are as long as
    they are (`Group`); the passes of one cycle stand for prefill and decode steps, and generate as
    many tokens. So the KV cache holds sequences that are half generated on average, p + g / 2
    tokens in place of p + g (equation 7).

    Simplified: attention weights, 3 % of Mixtral's, stay on the GPU; pages of the KV cache are of
    one token; no preemption; weights travel in two parts, not in packets of 100 MB; the scheduler's
    limit on the tokens of a pass is the user's choice of N. Assumed: the expert kernel is fused, as
    MoE-Lightning's. The encoder of an encoder-decoder model is a pass of its own, and all sequences
    are of the same age then.
    """

    for_real = False
    name = "moe-lens"
    title = "prefill and decode in each pass; two groups take turns on CPU and GPU"
    paper = "MoE-Lens, arXiv 2504.09345, section 6"
    kernels = Kernels(experts="fused", cpu_attention="native")
    knobs = frozenset({"pinned"})
    one_batch = True
    steps_alike = False
    pinned_default = "if_it_fits"

    def __init__(self, node: Node) -> None:
        super().__init__(node)
        (self.gpu,) = node.gpus
        self.mixes = not node.model.is_encoder_decoder
        self.batches = balance(node.batches[0].prompt_lengths, -(-node.policy.N // GROUPS))
        count = len(self.batches)
        self.groups = [
            Group(batch.prompt_lengths, batch.index, count, node.gen_len) for batch in self.batches
        ]
        peaks = [self.all_shares(k) for k in range(count)]
        keep_resident(node, max(share.tokens for shares in peaks for share in shares))
        self.weights = StreamedWeights(node, "experts", pages=count)
        self.take_room(peaks)

    def take_room(self, peaks: list[list[Share]]) -> None:
        """Buffers of each group, for the largest share of any pass."""
        node, work, layer = self.node, self.node.work, self.node.model.decoder_layers[0]
        decoder = node.model.decoder_layers
        self.hidden: list[Buffer] = []
        self.new_kv: list[Buffer] = []
        self.qkv: list[tuple[Buffer, Buffer]] = []  # on the GPU, in host memory
        self.attended: list[tuple[Buffer, Buffer]] = []
        self.cache: list[list[Buffer]] = []  # by group, by decoder layer
        self.pages: list[list[Buffer]] = []  # those of new sequences; the cache has their bytes
        for k, shares in enumerate(peaks):
            tokens = max(share.tokens for share in shares)
            prompts = max(share.prompt_tokens for share in shares)
            size = max(share.decoding for share in shares)
            cached = max(share.cached for share in shares)
            made = decoder if not self.mixes else [layer]
            new = sum(work.kv_bytes(spec, prompts) for spec in made)
            qkv, out = work.qkv_bytes(layer, size), work.attended_bytes(layer, size)
            self.hidden.append(node.on_gpu(self.gpu, f"hidden[{k}]", work.hidden_bytes(tokens)))
            self.new_kv.append(node.on_gpu(self.gpu, f"new KV[{k}]", new))
            self.qkv.append(self.both(f"qkv[{k}]", qkv))
            self.attended.append(self.both(f"attended[{k}]", out))
            self.cache.append(
                [node.on_host(f"KV[{s.index},{k}]", work.kv_bytes(s, cached)) for s in decoder]
            )
            self.pages.append([node.on_host(f"new pages[{s.index},{k}]", 0) for s in decoder])

    def both(self, name: str, size_bytes: float) -> tuple[Buffer, Buffer]:
        """Room on the GPU and in page-locked host memory."""
        here = self.node.on_gpu(self.gpu, name, size_bytes)
        return here, self.node.on_host(name, size_bytes, True)

    # -- who does what --------------------------------------------------------------------------

    def share(self, k: int, number: int) -> Share:
        """What a group does in a pass, counted from 0."""
        batch = self.batches[k]
        if self.mixes:
            return self.groups[k].share(number)
        if number == 0:
            return Share(batch, 0, 0.0)
        return Share(None, batch.size, float(batch.prompt_tokens + number * batch.size))

    def all_shares(self, k: int) -> list[Share]:
        """Of all passes."""
        count = self.node.gen_len + (0 if self.mixes else 1)
        return [self.share(k, number) for number in range(count)]

    # -- the pass -------------------------------------------------------------------------------

    def prefill(self) -> None:
        self.weights.load(0, direct=True)
        self.mixed_pass()

    def decode_step(self) -> None:
        self.mixed_pass()

    def mixed_pass(self) -> None:
        """All layers; a group starts the next one as soon as it has finished this one."""
        count = len(self.groups)
        self.now = [self.share(k, self.node.step) for k in range(count)]
        for k in range(count):
            self.start(Slot(0, k))
        for layer in range(len(self.node.layers)):
            for k in range(count):
                self.weights.pin(layer + 1, page=k)
                self.load_attended(Slot(layer, k))
                self.weights.load(layer + 1, page=k)
                self.finish(Slot(layer, k))
                if layer + 1 < len(self.node.layers):
                    self.start(Slot(layer + 1, k))

    def start(self, slot: Slot) -> None:
        """Projections and the attention of prompts on the GPU; then the CPU attends."""
        node, work, (layer, k) = self.node, self.node.work, slot
        spec, share, issuer = node.spec(layer), self.now[k], node.issuer
        parts: list[Work] = []
        if share.new is not None:
            parts.append(work.prefill_attention(spec, share.new))
        if node.is_first(layer):
            parts.append(work.embedding(share.tokens))
        whole = work.join(work.qkv(spec, share.tokens), *parts)
        (qkv, qkv_host), (_, attended) = self.qkv[k], self.attended[k]
        x = self.hidden[k]
        writes = [x, qkv, *([self.new_kv[k]] if self.mixes and share.new else [])]
        issuer.task("pre_attention", self.gpu.gpu, [x], writes, whole, spec.index, k)
        if share.decoding:
            size = work.copy("d2h", work.qkv_bytes(spec, share.decoding))
            d2h = self.gpu.d2h
            issuer.task("offload_qkv", d2h, [qkv], [qkv_host], size, spec.index, k)
            attention = work.cpu_attention(spec, share.decoding, share.context)
            writes = [self.cache[k][spec.index], attended]
            issuer.task("cpu_attention", "cpu", [qkv_host], writes, attention, spec.index, k)
        if self.mixes and share.new:
            self.store_kv(slot, [spec.index])

    def store_kv(self, slot: Slot, layers: list[int]) -> None:
        """Keys and values of the new prompts, in so many decoder layers, to host memory."""
        node, k = self.node, slot.micro_batch
        specs = [node.model.decoder_layers[i] for i in layers]
        size = sum(node.work.kv_bytes(spec, self.now[k].prompt_tokens) for spec in specs)
        pages = [self.pages[k][i] for i in layers]
        work, index = node.work.copy("d2h", size), node.spec(slot.layer).index
        node.issuer.task("store_kv", self.gpu.d2h, [self.new_kv[k]], pages, work, index, k)

    def load_attended(self, slot: Slot) -> None:
        """What the CPU has made, to the GPU."""
        node, k = self.node, slot.micro_batch
        if not self.now[k].decoding:
            return
        spec, (here, there) = node.spec(slot.layer), self.attended[k]
        work = node.work.copy("h2d", node.work.attended_bytes(spec, self.now[k].decoding))
        node.issuer.task("load_attended", self.gpu.h2d, [there], [here], work, spec.index, k)

    def finish(self, slot: Slot) -> None:
        """Output projection and experts; the output head after the last layer."""
        node, work, (layer, k) = self.node, self.node.work, slot
        spec, share = node.spec(layer), self.now[k]
        encodes = not self.mixes and share.new is not None
        after = None
        if node.is_last(layer):
            after = work.cross_keys(share.tokens) if encodes else work.head(share.sampled)
        whole = work.join(work.post_attention(spec, share.tokens), after)
        x, here = self.hidden[k], self.attended[k][0]
        made = [self.new_kv[k]] if encodes and node.is_last(layer) else []
        reads = [x, here, *self.weights.resident(self.gpu, layer)]
        node.issuer.task("post_attention", self.gpu.gpu, reads, [x, *made], whole, spec.index, k)
        if made:
            self.store_kv(slot, list(range(len(node.model.decoder_layers))))

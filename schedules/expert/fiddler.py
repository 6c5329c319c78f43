"""Fiddler: tokens go to the CPU where that is cheaper than bringing an expert to the GPU."""

import numpy as np
from numpy.typing import NDArray

from schedules.choices import token_counts
from schedules.contents import Span
from schedules.expert.on_cpu import ExpertsOnCPU
from schedules.model import LayerSpec
from schedules.routing_popularity import popularity
from schedules.task import Buffer, Task, Work

USED = 0.95  # share of the GPU's memory that the authors' system fills
CPU_TOKENS = 9  # its costs: 7 for each token on the CPU, 70 for a copy; at 10 tokens the GPU wins

Counts = NDArray[np.int64]


class Fiddler(ExpertsOnCPU):
    """The most popular experts stay on the GPU; for another one that tokens have chosen, either
    the expert travels to the GPU or the tokens to the CPU, which computes it (Fiddler, arXiv
    2402.07033, figure 2 and algorithm 1; the authors' code, src/fiddler/mixtral.py).

    Time on the CPU grows with the tokens of an expert, a copy costs the same for any number, so few
    tokens go to the CPU (`cpu_tokens`). On a machine whose CPU is bound by arithmetic both cost
    the same at b x (CPU flops/s) / (2 x link bytes/s) tokens of b-byte parameters: 137 on
    gcp-t4-24c, 2 B x 0.8e12 / (2 x 5.83e9). As in the code, the GPU's experts come first, absent
    ones one by one through a single placeholder in pageable memory; then the CPU's, one by one;
    the thread waits for both, so the two devices take turns.

    Simplified: popularity is that of the routing itself, as from an endless profile; the threshold
    is a policy, by default the constant of the authors' code, which does not measure the machine;
    a token that takes several experts on the CPU travels once. Not modelled: beam search.
    """

    name = "fiddler"
    title = "tokens go to the CPU where that is cheaper than experts to the GPU"
    paper = "Fiddler, arXiv 2402.07033, figure 2 and algorithm 1"
    knobs = frozenset({"pinned", "experts_on_gpu", "cpu_tokens"})
    pinned_default = "never"
    sync_default = False

    def make_room(self) -> None:
        super().make_room()
        size = max(map(self.expert_bytes, self.moe_layers), default=0.0)
        self.placeholder = self.node.on_gpu(self.gpu, "expert placeholder", size)
        self.popular = self.most_popular()
        self.kept = {
            spec: self.node.on_gpu(
                self.gpu,
                f"popular experts[{spec.stack} {spec.index}]",
                len(experts) * self.expert_bytes(spec),
                named(spec, experts),
            )
            for spec, experts in self.popular.items()
        }
        limit = self.node.policy.cpu_tokens
        self.cpu_tokens = CPU_TOKENS if limit is None else limit
        self.choices = {"gpu": 0, "copy": 0, "cpu": 0}  # tokens' choices, by where they were met

    def most_popular(self) -> dict[LayerSpec, list[int]]:
        """The experts that stay on the GPU, by layer: of all layers those that most tokens take."""
        shares = [
            (-share, expert, spec.number, spec)
            for spec in self.moe_layers
            for expert, share in enumerate(popularity(self.node.work.routing, spec).tolist())
        ]
        chosen: dict[LayerSpec, list[int]] = {spec: [] for spec in self.moe_layers}
        for _, expert, _, spec in sorted(shares, key=lambda s: s[:3])[: self.room_for(len(shares))]:
            chosen[spec].append(expert)
        return chosen

    def room_for(self, there_are: int) -> int:
        """How many experts the GPU keeps."""
        share, pool = self.node.policy.experts_on_gpu, self.node.issuer.pools[self.gpu.pool]
        if share is not None:
            return round(share * there_are)
        free = USED * pool.capacity_bytes - pool.used_bytes
        largest = max(map(self.expert_bytes, self.moe_layers), default=1.0)
        return max(0, min(there_are, int(free / largest)))

    def ffn(self, spec: LayerSpec, tokens: float, after: Work | None) -> None:
        ids = self.named_ids(spec, tokens, self.routed)
        counts = token_counts(ids, spec.n_experts)
        chosen = np.flatnonzero(counts).tolist()
        here = [expert for expert in chosen if expert in self.popular[spec]]
        away = [expert for expert in chosen if expert not in here]
        for_cpu = [expert for expert in away if counts[expert] <= self.cpu_tokens]
        copied = [expert for expert in away if expert not in for_cpu]
        parts = self.shared(spec, tokens)
        last: Task | None = None
        if here:
            last = self.on_gpu(spec, counts, here, self.kept[spec])
        for expert in copied:
            self.load(spec, expert, self.placeholder)
            last = self.on_gpu(spec, counts, [expert], self.placeholder)
        if last:
            parts = [self.sum]
        if for_cpu:
            travelling = float(np.isin(ids, for_cpu).any(axis=1).sum())
            parts.append(self.cpu_part(spec, travelling, counts, for_cpu, last))
        for where, experts in (("gpu", here), ("copy", copied), ("cpu", for_cpu)):
            self.choices[where] += int(counts[experts].sum())
        self.combine(spec, tokens, parts, after)

    def on_gpu(self, spec: LayerSpec, counts: Counts, experts: list[int], place: Buffer) -> Task:
        """Those of the chosen experts that lie in `place`, added to the sum."""
        work = self.node.work
        each = work.join(*(work.one_expert(spec, (int(counts[e]),)) for e in experts))
        reads, where = [self.x, self.routed, place], (spec.index, self.micro_batch)
        return self.node.issuer.task(
            "some_experts", self.gpu.gpu, reads, [self.sum], each, *where, named(spec, experts)
        )

    def cpu_part(
        self, spec: LayerSpec, tokens: float, counts: Counts, experts: list[int], last: Task | None
    ) -> Buffer:
        """The CPU's experts, from sending their tokens to having the sum of the outputs back.

        The copy of the tokens is queued behind the GPU's experts, whose `last` task it waits for.
        """
        issuer = self.node.issuer
        if last:
            issuer.wait(last)
        self.send(spec, tokens, what=named(spec, experts))
        for expert in experts:
            rows, what = float(counts[expert]), named(spec, [expert])
            issuer.wait(self.on_cpu("cpu_experts", spec, 1, rows, what=what))
        return self.fetch(spec, tokens)

    def facts(self) -> dict[str, float]:
        """Shares of the tokens' choices whose expert was on the GPU, and that the CPU computed."""
        total = sum(self.choices.values())
        if not total:
            return {}
        return {"hit_rate": self.choices["gpu"] / total, "cpu_share": self.choices["cpu"] / total}


def named(spec: LayerSpec, experts: list[int]) -> tuple[Span, ...]:
    """These experts of a layer, for a task that computes them or takes their tokens."""
    return tuple(Span(spec.number, "expert", expert=expert) for expert in experts)

"""A simple search for the best policy of a schedule.

1. For each micro-batch size of `MICRO_BATCHES`, from the largest down, the largest batch that fits
   in memory is found by bisection on the number of micro-batches; that number, its half, quarter
   and eighth are candidates. (A schedule of one batch: the largest batch and its fractions.) Once
   `PATIENCE` sizes in a row have brought nothing better, smaller ones are not tried.
2. A candidate is rated by simulating prefill and the middle decode step of two short copies of the
   model, of 2 and 3 layers (1 and 2 for each pipeline stage), and extending their difference to all
   layers: layers are alike.
3. From the best candidate, each other knob of the schedule is tried at its `OPTIONS`, with step 1
   repeated around the best micro-batch size; a better rating is kept. Sizes between those of
   `MICRO_BATCHES` are tried last.

What the caller has fixed stays. It is a heuristic: it rates tens of policies, not all of them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from schedules.errors import Infeasible, MoelabError
from schedules.policy import Policy, make_policy
from schedules.schedule import Schedule
from sim.cost import CostModel
from sim.generation import Phase, simulate_phase
from sim.scenario import Scenario, place

MICRO_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)
FRACTIONS = (1, 2, 4, 8)  # of the most micro-batches that fit
PATIENCE = 3
MOST_SEQUENCES = 16_384  # the largest batch considered
MOST_MICRO_BATCHES = 64
OPTIONS: Mapping[str, tuple[float, ...]] = {
    "A_g": (1,),
    "r_c": (1.0,),
    "r_h": (1.0,),
    "r_w": (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0),
}
SHORT = (2, 3)  # layers of the short copies
SHORT_STAGES = (1, 2)  # layers of each pipeline stage in them

Costs = Callable[[int], CostModel]


def best_policy(
    scenario: Scenario, kind: type[Schedule], costs: Costs, fixed: Mapping[str, Any] | None = None
) -> Policy:
    """The best policy found for a schedule.

    Parameters
    ----------
    costs: the cost model for a number of GPUs.
    fixed: policy values that the search must keep.

    Raises `Infeasible` when not even one sequence fits.
    """
    search = _Search(scenario, kind, costs(scenario.gpus_for(kind)), dict(fixed or {}))
    best = search.around(MICRO_BATCHES, {})
    for knobs in search.neighbours():
        if best is None:
            best = search.around(MICRO_BATCHES, knobs)
        else:
            best = search.better(best, nearby(best[1].mu), search.knobs_of(best[1]) | knobs)
    if best is None:
        place(scenario, kind, search.policy(1, search.fewest, {}))  # says what does not fit
        raise Infeasible(f"schedule '{kind.name}': no policy fits {search.fixed}")
    between = sorted({best[1].mu * 3 // 4, best[1].mu * 3 // 2} - {0})
    return search.better(best, between, search.knobs_of(best[1]))[1]


def nearby(size: int) -> tuple[int, ...]:
    """The micro-batch size and its neighbours in the grid."""
    grid = sorted({*MICRO_BATCHES, size})
    place_of = grid.index(size)
    return tuple(grid[max(0, place_of - 1) : place_of + 2])


Rated = tuple[float, Policy]  # estimated tokens/s of a policy


def _rating(rated: Rated) -> float:
    return rated[0]


class _Search:
    def __init__(
        self, scenario: Scenario, kind: type[Schedule], cost: CostModel, fixed: dict[str, Any]
    ) -> None:
        self.scenario = scenario
        self.kind = kind
        self.cost = cost
        self.fixed = fixed
        model, gpus = scenario.model, scenario.gpus_for(kind)
        layers = [n * gpus for n in SHORT_STAGES] if kind.multi_gpu == "pipeline" else SHORT
        self.short = [
            replace(scenario, model=model.with_layers(min(n, model.n_layers))) for n in layers
        ]

    @property
    def fewest(self) -> int:
        """The fewest micro-batches; data-parallel GPUs need a sequence each."""
        return self.scenario.gpus_for(self.kind) if self.kind.multi_gpu == "data" else 1

    def policy(self, micro_batch: int, count: int, knobs: Mapping[str, Any]) -> Policy:
        """A policy of `count` micro-batches; what is fixed wins."""
        mu = int(self.fixed.get("mu", micro_batch))
        batch = int(self.fixed.get("N", mu * count))
        mu = batch if self.kind.one_batch and "mu" not in self.fixed else min(mu, batch)
        return make_policy({"N": batch, "mu": mu} | dict(knobs) | self.fixed | {"mu": mu})

    def knobs_of(self, policy: Policy) -> dict[str, Any]:
        """The values of the schedule's knobs."""
        return {key: getattr(policy, key) for key in self.kind.knobs}

    def neighbours(self) -> Iterator[dict[str, Any]]:
        """One other value for one knob, each in turn."""
        for key, values in OPTIONS.items():
            if key in self.kind.knobs and key not in self.fixed:
                for value in values:
                    yield {key: value}

    def better(self, best: Rated, sizes: Sequence[int], knobs: Mapping[str, Any]) -> Rated:
        """The best of `best` and the candidates for micro-batch sizes."""
        found = self.around(sizes, knobs)
        return best if found is None else max(best, found, key=_rating)

    def around(self, sizes: Sequence[int], knobs: Mapping[str, Any]) -> Rated | None:
        """The best candidate for micro-batch sizes; None when nothing fits."""
        best: Rated | None = None
        failures = 0
        if self.kind.one_batch or "mu" in self.fixed:
            sizes = [int(self.fixed.get("mu", 1))]
        for size in sorted(sizes, reverse=True):
            found = self.best_of_size(size, knobs)
            if found is not None and (best is None or found[0] > best[0]):
                best, failures = found, 0
            elif best is not None:
                failures += 1
            if failures == PATIENCE:
                break
        return best

    def best_of_size(self, size: int, knobs: Mapping[str, Any]) -> Rated | None:
        """The best number of micro-batches of one size."""
        most = self.largest(size, knobs)
        counts = sorted({most // f for f in FRACTIONS if most // f >= self.fewest}, reverse=True)
        policies = dict.fromkeys(self.policy(size, count, knobs) for count in counts)
        rated = [(rate, p) for p in policies if (rate := self.rate(p)) is not None]
        return max(rated, key=_rating, default=None)

    def largest(self, size: int, knobs: Mapping[str, Any]) -> int:
        """The most micro-batches of this size that fit; 0 when none does."""
        high = MOST_SEQUENCES // size
        if not self.kind.one_batch:
            high = min(high, MOST_MICRO_BATCHES)
        low = self.fewest
        if not self.fits(self.policy(size, low, knobs)):
            return 0
        if "N" in self.fixed:
            return low  # every count is the same policy
        while low < high:
            middle = (low + high + 1) // 2
            if self.fits(self.policy(size, middle, knobs)):
                low = middle
            else:
                high = middle - 1
        return low

    def fits(self, policy: Policy) -> bool:
        """Whether all memory can be taken."""
        try:
            place(self.scenario, self.kind, policy)
        except MoelabError:
            return False  # too large, or knobs that do not go together
        return True

    def rate(self, policy: Policy) -> float | None:
        """Estimated tokens/s; None when it does not fit."""
        try:
            pinned = place(self.scenario, self.kind, policy).node.pinned
        except Infeasible:
            return None
        layers = [short.model.n_layers for short in self.short]
        times = [self.short_time(short, policy, pinned) for short in self.short]
        per_layer = (times[1] - times[0]) / (layers[1] - layers[0]) if layers[1] > layers[0] else 0
        total = times[1] + per_layer * (self.scenario.model.n_layers - layers[1])
        return policy.N * self.scenario.workload.gen_len / total

    def short_time(self, short: Scenario, policy: Policy, pinned: bool) -> float:
        """Seconds of the generation on a short model: prefill, and its middle step for all."""
        if "pinned" in self.kind.knobs:
            policy = policy.model_copy(update={"pinned": pinned})
        schedule = place(short, self.kind, policy)
        steps = schedule.n_decode_steps(short.model.is_encoder_decoder, short.workload.gen_len)

        def makespan(phase: Phase) -> float:
            return phase.run.makespan_s

        total = makespan(simulate_phase(schedule, 0, self.cost))
        if steps:
            total += steps * makespan(simulate_phase(schedule, (steps + 1) // 2, self.cost))
        return total

"""How fast routing is drawn: ten million decisions (token x layer x k) of each kind.

Run `python benchmarks/routing.py [DECISIONS]`. Timings vary with the machine and its load, so
compare figures of one run only.
"""

import sys
import time

from schedules.routing import Routing
from schedules.routing_chains import Chains

LAYERS = 32
LENGTH = 256  # tokens of a sequence
SHAPES = ((8, 2), (128, 1), (128, 8))
KINDS = {
    "zipf": Routing(kind="zipf", exponent=1.2),
    "markov": Routing(kind="markov", exponent=1.2, token_correlation=0.5, layer_correlation=0.3),
}


def seconds(kind: str, n_experts: int, top_k: int, decisions: int) -> float:
    """Wall seconds to draw all layers of as many whole sequences."""
    start = time.perf_counter()
    if kind == "uniform":
        tokens = decisions // (LAYERS * top_k)
        for layer in range(LAYERS):
            Routing().expert_ids(tokens, n_experts, top_k, layer, step=0)
    else:
        drawn = Chains(KINDS[kind].strengths("decoder"), 0, "decoder", n_experts, top_k)
        drawn.reserve(max(1, decisions // (LAYERS * top_k * LENGTH)), LENGTH)
        for layer in range(LAYERS):
            drawn.experts(layer)[drawn.ranks(layer)]
    return time.perf_counter() - start


def main(decisions: int = 10_000_000) -> None:
    """Print one line per kind and shape."""
    print(f"{decisions:,} decisions, {LAYERS} layers")
    print(f"{'kind':8} {'experts':>7} {'top-k':>5} {'s':>7}")
    for kind in ("uniform", *KINDS):
        for n_experts, top_k in SHAPES:
            taken = seconds(kind, n_experts, top_k, decisions)
            print(f"{kind:8} {n_experts:7} {top_k:5} {taken:7.2f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000_000)

"""What the gates of a run told its schedule, kept for a simulation that asks the same."""

from dataclasses import dataclass, field

import numpy as np

from schedules.issuer import Issuer
from schedules.task import Task


@dataclass
class Answers:
    """Ids, and weights, in the order in which they were asked for; `asked` has the gates."""

    asked: list[Task] = field(default_factory=list)
    ids: list[np.ndarray] = field(default_factory=list)
    weights: list[np.ndarray | None] = field(default_factory=list)

    def listen(self, issuer: Issuer) -> None:
        """Keep what this issuer answers from now on."""
        ids, weights = issuer._routing, issuer.gate_weights

        def routing(gate):
            self.asked.append(gate)
            self.ids.append(ids(gate))
            return self.ids[-1]

        def gate_weights(gate):
            self.weights.append(weights(gate))
            return self.weights[-1]

        issuer._routing, issuer.gate_weights = routing, gate_weights

    def tell(self, issuer: Issuer) -> None:
        """Let this issuer answer alike; the gates must be the same ones."""
        asked, ids, weights = map(iter, (self.asked, self.ids, self.weights))

        def routing(gate):
            assert next(asked) == gate
            return next(ids)

        issuer._routing, issuer.gate_weights = routing, lambda gate: next(weights)

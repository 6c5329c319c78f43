"""Routing by hand, for the tests of the schedules that move experts."""

import numpy as np

from schedules.routing import Routing

EXPERT = 2 * 3 * 4_096 * 14_336  # bytes of one of Mixtral's


class Scripted(Routing):
    """Routing by hand: the ids of every token, by (step, layer); each row is a token."""

    script: dict[tuple[int, int], list[list[int]]]

    def expert_ids(self, tokens, n_experts, top_k, layer, step, micro_batch=0):
        ids = np.array(self.script[step, layer])
        assert ids.shape == (tokens, top_k)
        return ids


TWO = Scripted(  # one token, in the prompt and in the step after it; two experts in each layer
    script={(step, layer): ids for step in (0, 1) for layer, ids in ((0, [[5, 2]]), (1, [[7, 0]]))}
)

"""A compared run whose numbers can be worked out by hand: see `tests.sim.compared`."""

from typing import Any

from schedules.timeline import Timeline
from sim.compare_result import RunComparison
from sim.compare_timeline import aligned
from tests.sim.compared import Prices, by_hand


def compared(batches: int = 1, **changes: Any) -> dict[str, Any]:
    """Each batch measured in 25 s, replayed in 22, simulated in 16."""
    return {
        "run": "out",
        "schedule": "double<buffer",
        "model": "tiny",
        "workload": "quiz",
        "hardware": "box",
        "run_hardware": "a CPU, 2 cores",
        "changes": ["h2d at 0.5 GB/s, as the run held its link"],
        "policy": {"N": 1, "mu": 1},
        "threads": [2, 1],
        "issue_s_per_task": 0.0,
        **RunComparison([by_hand(Prices(2.0, 2.0))] * batches).to_dict(),
        "provenance": {
            "version": "0.1.0",
            "seed": 3,
            "presets": {"gen_len": 2, "prompt_lengths": [1234, 4321], "model_spec": {"a": 1}},
        },
        **changes,
    }


def timelines() -> tuple[Timeline, Timeline]:
    """The same batch on both clocks: steps begin at 0 and 11.5 s."""
    return aligned(by_hand(Prices(2.0, 2.0)))

"""All training figures of a size, in one order: model, pre-gates, SiDA, look-ahead, routing."""

import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from runtime.training.fit import Course, evaluate, fit
from runtime.training.look_ahead import DISTANCES, look_ahead
from runtime.training.model import MoELanguageModel, Sizes, new_model
from runtime.training.pre_gates import fine_tune
from runtime.training.recording import routes, routing_frame, skew
from runtime.training.sida import sida
from runtime.training.text import Text, random_windows, read_text, windows
from schedules.errors import BadInput, suggest


@dataclass(frozen=True)
class Plan:
    """What is trained, and for how long.

    Parameters
    ----------
    models: by name.
    characters: of the training text, and at most of the held-out one; None: all.
    training, tuning, predicting: of the model, of pre-gates and of SiDA's predictor.
    hidden: width of the predictor.
    requests: windows of held-out text whose routing is recorded.
    """

    models: Mapping[str, Sizes]
    characters: int | None
    training: Course
    tuning: Course
    predicting: Course
    hidden: int
    requests: int


TINY = {"vocabulary": 272, "context": 16, "layers": 4, "width": 16, "heads": 2, "expert_size": 16}
SMALL = {"vocabulary": 512, "context": 128, "layers": 6, "width": 64, "heads": 4}
PLANS = {
    "tiny": Plan(
        {
            "top-1": Sizes(**TINY, experts=8, top_k=1),
            "top-2": Sizes(**TINY, experts=4, top_k=2),
        },
        characters=8000,
        training=Course(40, 8, 1e-2),
        tuning=Course(10, 8, 3e-3),
        predicting=Course(60, 8, 1e-2),
        hidden=16,
        requests=8,
    ),
    "small": Plan(
        {
            "top-1": Sizes(**SMALL, expert_size=128, experts=16, top_k=1),
            "top-2": Sizes(**SMALL, expert_size=128, experts=8, top_k=2),
        },
        characters=None,
        training=Course(600, 8, 4e-3),
        tuning=Course(120, 8, 1e-3),
        predicting=Course(800, 8, 5e-3),
        hidden=64,
        requests=64,
    ),
}
"""Sizes and courses were chosen so that `small` takes about four minutes of one core."""


def plan_of(size: str) -> Plan:
    """The plan of that name; raises `BadInput` for an unknown one."""
    if size not in PLANS:
        raise BadInput(f"there is no size '{size}'{suggest(size, PLANS)}")
    return PLANS[size]


def run_plan(size: str, seed: int) -> tuple[dict[str, Any], dict[str, pd.DataFrame]]:
    """The figures, ready for JSON, and by model the recorded routing.

    Same size, seed, text and machine: same figures, bit for bit, without `seconds`. Raises
    `BadInput` for an unknown size.
    """
    plan = plan_of(size)
    text = read_text(next(iter(plan.models.values())).vocabulary, plan.characters)
    models, recorded = {}, {}
    with one_thread():
        for name, sizes in plan.models.items():
            models[name], recorded[name] = run_model(plan, sizes, text, seed)
    figures = {
        "size": size,
        "seed": seed,
        "text": describe(text),
        "courses": {name: asdict(getattr(plan, name)) for name in COURSES},
        "models": models,
        "machine": machine(),
    }
    return figures, recorded


COURSES = ("training", "tuning", "predicting")


def run_model(
    plan: Plan, sizes: Sizes, text: Text, seed: int
) -> tuple[dict[str, Any], pd.DataFrame]:
    """The figures of one model, and its recorded routing."""
    clock = Clock()
    model = new_model(sizes, seed)
    held_out = windows(text.held_out, sizes.context)
    untrained = evaluate(model, held_out)
    losses = fit(
        model, random_windows(text.training, sizes.context, plan.training.rows, seed), plan.training
    )
    clock.lap("training")
    figures = {
        "sizes": asdict(sizes) | {"parameters": sum(p.numel() for p in model.parameters())},
        "loss": {"untrained": untrained, "trained": evaluate(model, held_out)},
        "training_loss": {"first": losses[0], "last": losses[-1]},
        "pre_gates": tuned(model, text, plan, seed, clock),
        "sida": asdict(sida(model, text, plan.hidden, plan.predicting, seed)),
    }
    clock.lap("sida")
    tokens = held_out[: plan.requests, :-1]
    found = routes(model, tokens)
    figures["look_ahead"] = {str(d): shares for d, shares in look_ahead(model, tokens).items()}
    figures["skew"] = asdict(skew(found, sizes.experts))
    clock.lap("routing")
    return figures | {"seconds": clock.laps}, routing_frame(found, sizes.context // 2)


def tuned(
    model: MoELanguageModel, text: Text, plan: Plan, seed: int, clock: "Clock"
) -> list[dict[str, Any]]:
    """Fine-tuned with each activation level; level 0 trains as long without a change."""
    levels = [0, *(d for d in DISTANCES if d < model.sizes.layers)]
    rows = [asdict(fine_tune(model, text, level, plan.tuning, seed + 1)) for level in levels]
    clock.lap("pre_gates")
    return rows


class Clock:
    """Seconds between calls, by name."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """End a lap."""
        now = time.perf_counter()
        self.laps[name], self._last = round(now - self._last, 1), now


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread of torch, so that sums come in one order; then as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def describe(text: Text) -> dict[str, Any]:
    """Which text it was."""
    return {
        "source": "pydoc_data.topics, paragraphs once, every tenth topic held out",
        "characters": text.characters,
        "training_tokens": len(text.training),
        "held_out_tokens": len(text.held_out),
        "vocabulary": text.vocabulary,
        "sha256": text.sha256,
    }


def machine() -> dict[str, str]:
    """Where it ran."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "processor": platform.machine(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }

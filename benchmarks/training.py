"""Write the figures of docs/training.md and the recorded routing that ships with moelab.

Run `python benchmarks/training.py`; each of the three seeds takes about four minutes of one core.
`--from FOLDER` reads what an earlier run has left there and trains nothing.
"""

import argparse
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from runtime.train import FIGURES, train

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "training.md"
RECORDED = ROOT / "schedules" / "presets" / "routing" / "recorded"
MARK = "<!-- written by benchmarks/training.py from here on -->"
SEEDS = (0, 1, 2)

Model = dict[str, Any]


def main() -> None:
    """Train with every seed, replace what follows the mark in the page, and the Parquet files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="small")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "training")
    parser.add_argument("--from", dest="done", type=Path)
    given = parser.parse_args()
    work = given.done or given.work
    if given.done is None:
        for seed in SEEDS:
            train(given.size, seed, work / str(seed))
    found = [json.loads((work / str(seed) / FIGURES).read_text()) for seed in SEEDS]
    head = PAGE.read_text(encoding="utf-8").split(MARK)[0]
    PAGE.write_text(head + MARK + "\n\n" + page(found), encoding="utf-8")
    ship(found[0], work / str(SEEDS[0]))


def ship(figures: Model, folder: Path) -> None:
    """Copy the first seed's recorded routing to the presets."""
    RECORDED.mkdir(parents=True, exist_ok=True)
    for name, model in figures["models"].items():
        target = RECORDED / f"pydoc-{model['sizes']['experts']}-experts-{name}.parquet"
        shutil.copy(folder / f"routing-{name}.parquet", target)


def page(found: Sequence[Model]) -> str:
    """What was measured, as Markdown."""
    text, machine = found[0]["text"], found[0]["machine"]
    parts = [
        f"Text: {text['characters']:,} characters, sha256 `{text['sha256']}`; "
        f"{text['training_tokens']:,} tokens of training text, {text['held_out_tokens']:,} held "
        f"out. Python {machine['python']}, torch {machine['torch']}, {machine['processor']} "
        f"({machine['cpu_capability']}), one thread. Seeds {', '.join(map(str, SEEDS))}: the "
        "mean, and the lowest and highest.\n"
    ]
    for name in found[0]["models"]:
        models = [figures["models"][name] for figures in found]
        parts += [title(name, models), table(loss_rows(models), "loss"), by_layer(models)]
    return "\n".join(parts)


def title(name: str, models: Sequence[Model]) -> str:
    """The heading of a model, and what it is."""
    sizes = models[0]["sizes"]
    seconds = spread([sum(model["seconds"].values()) for model in models], "{:.0f}")
    return (
        f"### {name}\n\n{sizes['layers']} layers, {sizes['width']} wide, {sizes['experts']} "
        f"experts of {sizes['expert_size']}, {sizes['top_k']} per token; "
        f"{sizes['parameters']:,} parameters. Seconds for everything: {seconds}.\n"
    )


def loss_rows(models: Sequence[Model]) -> Iterator[tuple[str, str]]:
    """Held-out losses."""

    def row(name: str, *keys: str | int) -> tuple[str, str]:
        return name, spread([figure(model, keys) for model in models], "{:.3f}")

    yield row("untrained", "loss", "untrained")
    yield row("**trained: the original**", "loss", "trained")
    yield row("original, trained as long again as below", "pre_gates", 0, "after")
    for i, tuned in enumerate(models[0]["pre_gates"][1:], start=1):
        level = f"pre-gates, level {tuned['level']}"
        yield row(f"{level}, nothing trained", "pre_gates", i, "before")
        yield row(f"{level}, fine-tuned", "pre_gates", i, "after")
        yield f"{level}, their price", spread([price(model, i) for model in models], "{:+.3f}")
    yield row("original, SiDA's predictor for the router", "sida", "loss")
    yield row("original, experts and weights at random", "sida", "random_loss")


def price(model: Model, level: int) -> float:
    """Fine-tuned loss less that of the original, trained as long on the same batches."""
    return float(model["pre_gates"][level]["after"] - model["pre_gates"][0]["after"])


def figure(found: Any, keys: Sequence[str | int]) -> float:
    """What lies below these keys."""
    for key in keys:
        found = found[key]
    return float(found)


def table(rows: Iterator[tuple[str, str]], measured: str) -> str:
    """Two columns."""
    lines = [f"| held-out text | {measured} |", "|---|---|"]
    return "\n".join([*lines, *(f"| {name} | {value} |" for name, value in rows)]) + "\n"


def by_layer(models: Sequence[Model]) -> str:
    """What is measured in each layer, the mean over seeds."""
    layers = models[0]["sizes"]["layers"]
    head = "| layer | " + " | ".join(map(str, range(layers))) + " |"
    lines = [head, "|---" * (layers + 1) + "|"]
    percent = [
        ("SiDA's hit rate, top-1", [m["sida"]["top_1"] for m in models]),
        ("SiDA's hit rate, top-3", [m["sida"]["top_3"] for m in models]),
        ("SiDA, share of the experts taken", [m["sida"]["taken"] for m in models]),
        ("each token's usual expert, top-1", [m["sida"]["by_token"] for m in models]),
        *(
            (f"look-ahead from {d} before", [[None] * int(d) + m["look_ahead"][d] for m in models])
            for d in models[0]["look_ahead"]
        ),
        ("most popular expert's share", [m["skew"]["top_1_share"] for m in models]),
        ("same expert as the token before", [m["skew"]["repeated"] for m in models]),
    ]
    counts = [
        ("distinct experts in a request", [m["skew"]["distinct_per_request"] for m in models]),
        ("distinct experts in a step", [m["skew"]["distinct_per_step"] for m in models]),
    ]
    lines += [layer_row(name, values, "{:.0%}") for name, values in percent]
    lines += [layer_row(name, values, "{:.1f}") for name, values in counts]
    return "\n".join(lines) + "\n"


def layer_row(name: str, values: Sequence[Sequence[float | None]], form: str) -> str:
    """The mean over seeds, by layer; nothing where a layer has no value."""
    cells = [
        "" if layer[0] is None else form.format(sum(layer) / len(layer))
        for layer in zip(*values, strict=True)
    ]
    return f"| {name} | " + " | ".join(cells) + " |"


def spread(values: Sequence[float], form: str) -> str:
    """Mean, lowest and highest."""
    low, high = form.format(min(values)), form.format(max(values))
    return f"{form.format(sum(values) / len(values))} ({low} to {high})"


if __name__ == "__main__":
    main()

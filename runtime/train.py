"""`python -m runtime.train`: train a small MoE model and what the methods need, and print figures;
or, with `--checkpoint` and `--prompts`, SiDA's predictor for a model that is there.

Writes `training.json` (every figure) and, by model, `routing-top-1.parquet`, ... (the recorded
routing of held-out text, in the format of a run's `routing.parquet`); for a checkpoint
`training.json` and `predictor.safetensors`. See docs/training.md.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from runtime.checkpoint import Checkpoint
from runtime.files import replaced
from runtime.predictor_files import numbered, write_predictor
from runtime.prompts import read_prompts
from runtime.tokenizer import load_tokenizer
from runtime.training.fit import Course
from runtime.training.for_checkpoint import train_for
from runtime.training.laboratory import plan_of, run_plan
from schedules.errors import BadInput, MoelabError
from schedules.routing_table import N_EXPERTS

FIGURES = "training.json"
PREDICTOR = "predictor.safetensors"
ROWS, LEARNING_RATE = 8, 5e-3  # of the predictor for a checkpoint: as in the plan `small`


def train(size: str, seed: int, out: Path) -> dict[str, Any]:
    """Run everything of a size and write it to `out`; the figures.

    Raises `BadInput` for an unknown size, a negative seed, or a folder that cannot be made.
    """
    plan_of(size)  # before the folder is made
    _at_least(0, "the seed", seed)
    _make(out)
    figures, recorded = run_plan(size, seed)
    write(figures, recorded, out)
    return figures


def train_checkpoint(
    checkpoint: Path, prompts: Path, gen_len: int, steps: int, seed: int, out: Path
) -> dict[str, Any]:
    """Train SiDA's predictor for a checkpoint and write it to `out`; the figures.

    Raises `BadInput` for a number that is too small, and what cannot be read or written.
    """
    _at_least(0, "the seed", seed)
    _at_least(1, "--gen-len", gen_len)
    _at_least(1, "--steps", steps)
    source = Checkpoint(checkpoint)
    spec = source.architecture.spec
    given = read_prompts(prompts, spec.vocab_size, load_tokenizer(checkpoint))
    given.check_context(gen_len, spec.max_context, spec.name)
    _make(out)
    trained = train_for(source, given.token_ids, gen_len, Course(steps, ROWS, LEARNING_RATE), seed)
    write_predictor(numbered(trained.predictor.state_dict(), trained.layers), out / PREDICTOR)
    figures = {
        "model": spec.name,
        "seed": seed,
        "prompts": len(given),
        "gen_len": gen_len,
        "steps": steps,
        **{name: getattr(trained, name) for name in HITS},
        "layers": trained.layers,
        "training": [trained.losses[0], trained.losses[-1]],
    }
    _write_figures(figures, out)
    return figures


HITS = {
    "taken": "share of the experts taken that it names",
    "top_1": "the likeliest expert is named first",
    "top_3": "... or among the first three",
}


def _at_least(least: int, name: str, value: int) -> None:
    if value < least:
        raise BadInput(f"{name} is {value}, but must be at least {least}")


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"the folder '{folder}' cannot be made: {error.strerror}") from None


def write(figures: Mapping[str, Any], recorded: Mapping[str, pd.DataFrame], out: Path) -> None:
    """The Parquet files, then the figures: where these are, the run was whole."""
    for name, frame in recorded.items():
        experts = figures["models"][name]["sizes"]["experts"]
        write_routing(frame, out / f"routing-{name}.parquet", experts)
    _write_figures(figures, out)


def _write_figures(figures: Mapping[str, Any], out: Path) -> None:
    with replaced(out / FIGURES) as partial:
        partial.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def write_routing(frame: pd.DataFrame, path: Path, experts: int) -> None:
    """Recorded routing; the file's metadata says how many experts a layer of the model has."""
    table = pa.Table.from_pandas(frame, preserve_index=False)
    with replaced(path) as partial:
        pq.write_table(table.replace_schema_metadata({N_EXPERTS: str(experts)}), partial)


def lines(figures: Mapping[str, Any]) -> Iterator[str]:
    """The figures as a table for people; losses in nats per token of held-out text."""
    text = figures["text"]
    yield f"text: {text['characters']} characters, sha256 {text['sha256'][:16]}"
    for name, model in figures["models"].items():
        sizes = model["sizes"]
        yield ""
        yield (
            f"{name}: {sizes['layers']} layers, {sizes['experts']} experts, {sizes['top_k']} per "
            f"token, {sizes['parameters']} parameters, {sum(model['seconds'].values()):.0f} s"
        )
        yield from map(row, cells(model))


def predictor_lines(figures: Mapping[str, Any]) -> Iterator[str]:
    """The figures of a checkpoint's predictor: hit rates on held-out prompts, by layer."""
    yield f"{figures['model']}: a predictor for layers {' '.join(map(str, figures['layers']))}"
    yield from (row((words, shares(figures[name]))) for name, words in HITS.items())


def row(cell: tuple[str, str]) -> str:
    """A line of the table."""
    return f"  {cell[0]:<46}{cell[1]}"


def cells(model: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What was measured, and how much it is."""
    yield "loss, untrained", f"{model['loss']['untrained']:.3f}"
    yield "loss, trained", f"{model['loss']['trained']:.3f}"
    for tuned in model["pre_gates"]:
        level = tuned["level"]
        name = f"pre-gates, level {level}" if level else "as many extra steps, own gates"
        yield f"loss, {name}", f"{tuned['after']:.3f} (before: {tuned['before']:.3f})"
    sida = model["sida"]
    yield "loss, SiDA's predictor for the router", f"{sida['loss']:.3f}"
    yield "loss, experts at random", f"{sida['random_loss']:.3f}"
    yield "SiDA's hit rate by layer, top-1", shares(sida["top_1"])
    yield "SiDA's hit rate by layer, top-3", shares(sida["top_3"])
    yield "the same, each token's usual expert", shares(sida["by_token"])
    for distance, found in model["look_ahead"].items():
        yield f"look-ahead by layer, distance {distance}", shares(found)
    skew = model["skew"]
    yield "most popular expert's share by layer", shares(skew["top_1_share"])
    yield "distinct experts of a request by layer", numbers(skew["distinct_per_request"])
    yield "same expert as the token before, by layer", shares(skew["repeated"])


def shares(values: Sequence[float]) -> str:
    """Per cent."""
    return " ".join(f"{100 * value:.0f}" for value in values) + " %"


def numbers(values: Sequence[float]) -> str:
    """One decimal."""
    return " ".join(f"{value:.1f}" for value in values)


def _asked(given: argparse.Namespace) -> Iterator[str]:
    """What is printed of what was trained."""
    if (given.checkpoint is None) != (given.prompts is None):
        raise BadInput("--checkpoint and --prompts go together: give both, or none of them")
    if given.checkpoint is None:
        return lines(train(given.size, given.seed, given.out))
    numbers = given.gen_len, given.steps, given.seed
    return predictor_lines(train_checkpoint(given.checkpoint, given.prompts, *numbers, given.out))


def main(arguments: Sequence[str]) -> int:
    """The command; its exit status."""
    parser = argparse.ArgumentParser(prog="python -m runtime.train", description=__doc__)
    parser.add_argument("--size", default="small", help="tiny (seconds) or small (minutes)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and batches")
    parser.add_argument("--out", type=Path, default=Path("training"), help="folder for results")
    parser.add_argument("--checkpoint", type=Path, help="train SiDA's predictor for this folder")
    parser.add_argument("--prompts", type=Path, help="... on these prompts (JSON Lines)")
    parser.add_argument("--gen-len", type=int, default=32, help="... and so many tokens after each")
    parser.add_argument("--steps", type=int, default=800, help="... in so many steps")
    given = parser.parse_args(arguments)
    try:
        printed = list(_asked(given))
    except MoelabError as error:
        print(f"moelab: {error}", file=sys.stderr)
        return 2 if isinstance(error, BadInput) else 1
    print("\n".join(printed))
    print(f"\nWritten: {given.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

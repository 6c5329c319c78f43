"""Options that several commands share."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class DeviceName(StrEnum):
    """Where a schedule can run."""

    cuda = "cuda"
    cpu = "cpu"


class DTypeName(StrEnum):
    """Number formats that a run can have."""

    float16 = "float16"
    bfloat16 = "bfloat16"
    float32 = "float32"


Model = Annotated[
    str,
    typer.Option(
        "--model", "-m", help="A preset (`moelab list models`) or a Hugging Face config.json."
    ),
]
Machine = Annotated[
    str, typer.Option("--hardware", "-H", help="A preset (`moelab list hardware`) or a TOML file.")
]
Requests = Annotated[
    str,
    typer.Option(
        "--workload",
        "-w",
        help="A preset (`moelab list workloads`), `fixed-512`, or a CSV or JSONL file of lengths.",
    ),
]
GenLen = Annotated[
    int | None, typer.Option("--gen-len", help="Tokens to generate; default: the workload's.")
]
Batch = Annotated[
    int | None, typer.Option("--batch", "-N", help="Batch size N, sequences; default: searched.")
]
MicroBatch = Annotated[
    int | None,
    typer.Option("--micro-batch", "-u", help="Micro-batch size mu, sequences; default: searched."),
]
PolicyItems = Annotated[
    list[str] | None,
    typer.Option(
        "--policy",
        "-p",
        metavar="KEY=VALUE",
        help="Policy values: r_w, r_c, r_h (shares on the GPU), A_g (attention there), pinned.",
    ),
]
Padded = Annotated[
    bool | None,
    typer.Option(
        "--padded/--unpadded", help="Count every prompt as the longest; default: the workload's."
    ),
]
Gpus = Annotated[
    int | None, typer.Option("--gpus", help="GPUs to use; default: all that the schedule can.")
]
Seed = Annotated[int, typer.Option("--seed", help="Seed of the routing.")]
Routing = Annotated[
    str,
    typer.Option(
        "--routing",
        help="Which experts tokens take: `uniform`, `switch-base-128`, `zipf:1.2`, a TOML file, or "
        "the `routing.parquet` of a run.",
    ),
]
ModifierItems = Annotated[
    list[str] | None,
    typer.Option(
        "--modify",
        metavar="KEY=VALUE",
        help="Change the model or where it lies, as `experts=int4`, `kv=int8`, `keep=6`, "
        "`skip=0.5`, `ssd=serial` (docs/modifiers.md).",
    ),
]


class EngineName(StrEnum):
    """Engines of the simulator."""

    compiled = "compiled"
    simpy = "simpy"


Engine = Annotated[
    EngineName,
    typer.Option("--engine", help="The compiled engine, or the reference that it equals."),
]
JsonFile = Annotated[
    Path | None,
    typer.Option("--json", metavar="FILE", help="Write the result as JSON; `-`: standard output."),
]

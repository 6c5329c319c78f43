"""Options of `moelab run`, grouped as its help shows them."""

from pathlib import Path
from typing import Annotated

import typer

from moelab.options import DeviceName, DTypeName

WEIGHTS, PROMPTS, POLICY = "Weights", "Prompts", "Policy"
MACHINE, SAMPLING, RESULTS = "Machine", "Sampling", "Results"

Checkpoint = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="A Hugging Face folder: config.json and safetensors files.",
        rich_help_panel=WEIGHTS,
    ),
]
RandomWeights = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL",
        help="Random weights for a preset (`moelab list models`) or a config.json.",
        rich_help_panel=WEIGHTS,
    ),
]
Layers = Annotated[
    int | None,
    typer.Option(
        help="Layers of a model with random weights; default: all.", rich_help_panel=WEIGHTS
    ),
]
DType = Annotated[
    DTypeName | None,
    typer.Option(
        metavar="DTYPE",
        help="Number format: float16, bfloat16 or float32; default: the model's own.",
        rich_help_panel=WEIGHTS,
    ),
]
Predictor = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="The trained predictor that names the experts in `sida` (docs/training.md).",
        rich_help_panel=WEIGHTS,
    ),
]
NoCheckWeights = Annotated[
    bool,
    typer.Option(
        "--no-check-weights",
        help="Do not read the checkpoint once before the run to look for NaN and infinity.",
        rich_help_panel=WEIGHTS,
    ),
]
Prompts = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.jsonl",
        help='A prompt per line: `{"prompt": "text"}` or `{"prompt_token_ids": [5, 7]}`.',
        rich_help_panel=PROMPTS,
    ),
]
Workload = Annotated[
    str | None,
    typer.Option(
        "--workload",
        "-w",
        help="Random prompts with a workload's lengths, as many as `--batch` says.",
        rich_help_panel=PROMPTS,
    ),
]
GenLen = Annotated[
    int | None,
    typer.Option(
        help="Tokens to generate for each prompt; default: the workload's.",
        rich_help_panel=PROMPTS,
    ),
]
IgnoreEos = Annotated[
    bool,
    typer.Option(
        "--ignore-eos",
        help="Go on after the end of a sequence, as benchmarks do.",
        rich_help_panel=PROMPTS,
    ),
]
Batch = Annotated[
    int | None,
    typer.Option(
        "--batch",
        "-N",
        help="Batch size N; the prompts are run N at a time; default: all at once.",
        rich_help_panel=POLICY,
    ),
]
MicroBatch = Annotated[
    int | None,
    typer.Option(
        "--micro-batch",
        "-u",
        help="Micro-batch size mu, sequences; default: a fourth of N.",
        rich_help_panel=POLICY,
    ),
]
PolicyItems = Annotated[
    list[str] | None,
    typer.Option(
        "--policy",
        "-p",
        metavar="KEY=VALUE",
        help="Policy values: r_w, r_c, r_h (shares on the GPU), A_g (attention there), pinned.",
        rich_help_panel=POLICY,
    ),
]
ModifierItems = Annotated[
    list[str] | None,
    typer.Option(
        "--modify",
        metavar="KEY=VALUE",
        help="Change the model: `experts=int4` or `weights=int8` (packed in groups of `group=64`), "
        "`skip=0.5` (docs/modifiers.md).",
        rich_help_panel=POLICY,
    ),
]
Device = Annotated[
    DeviceName,
    typer.Option(
        help="A CUDA GPU, or this machine's CPU and memory in its place.", rich_help_panel=MACHINE
    ),
]
GpuMemory = Annotated[
    str,
    typer.Option(
        metavar="SIZE",
        help="Most memory of the device that the run may use, such as 16GiB or 500MB.",
        rich_help_panel=MACHINE,
    ),
]
HostMemory = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="Most host memory; default: 90 % of the machine's.",
        rich_help_panel=MACHINE,
    ),
]
LinkBandwidth = Annotated[
    str | None,
    typer.Option(
        metavar="RATE",
        help="With `--device cpu`: hold the copies to and from the device to, say, 2GB/s.",
        rich_help_panel=MACHINE,
    ),
]
Threads = Annotated[
    str | None,
    typer.Option(
        metavar="D,C",
        help="CPU threads in place of the device, and of CPU attention, such as 2,2.",
        rich_help_panel=MACHINE,
    ),
]
Temperature = Annotated[
    float,
    typer.Option(help="Of drawn tokens; 0 takes the most likely token.", rich_help_panel=SAMPLING),
]
TopK = Annotated[
    int | None, typer.Option(help="Draw from the k most likely tokens.", rich_help_panel=SAMPLING)
]
TopP = Annotated[
    float | None,
    typer.Option(help="Draw from the fewest tokens that hold a share p.", rich_help_panel=SAMPLING),
]
Seed = Annotated[
    int,
    typer.Option(
        help="Of drawn tokens, random prompts and random weights.", rich_help_panel=SAMPLING
    ),
]
Out = Annotated[
    Path, typer.Option(metavar="DIR", help="Folder for the results.", rich_help_panel=RESULTS)
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Go on with the interrupted run in that folder; all else as before.",
        rich_help_panel=RESULTS,
    ),
]
Verify = Annotated[
    bool,
    typer.Option(
        "--verify",
        help="Compare the tokens with those of the reference implementation.",
        rich_help_panel=RESULTS,
    ),
]
Profile = Annotated[
    bool,
    typer.Option(
        "--profile", help="Write the PyTorch profiler's trace as well.", rich_help_panel=RESULTS
    ),
]
JsonFile = Annotated[
    Path | None,
    typer.Option(
        "--json",
        metavar="FILE",
        help="Write the result as JSON; `-`: standard output.",
        rich_help_panel=RESULTS,
    ),
]

"""What a run is asked, and what it leaves."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runtime.sampling_settings import Sampling
from schedules.errors import BadInput
from schedules.modifiers import Modifiers
from schedules.task import DType
from schedules.workload import Workload


@dataclass(frozen=True)
class Question:
    """What a run is asked.

    Parameters
    ----------
    schedule: its name.
    checkpoint: a Hugging Face folder; or `random_weights`, a model preset or a config.json, of
        which the first `layers` are taken (None: all).
    prompts: a JSONL file; or a workload, of which `batch` prompts are drawn.
    gen_len: tokens to generate for each prompt; None: the workload's.
    modifiers: what is changed of the model.
    batch, micro_batch, policy: N (None: all prompts), mu (None: four micro-batches), other values.
    predictor: a file of `runtime.predictor_files`, for schedules in which one names the experts;
        None with random weights: a random one.
    dtype: of weights, activations and cache; None: the model's own.
    ignore_eos: generate `gen_len` tokens whatever they are.
    """

    schedule: str
    checkpoint: Path | None = None
    random_weights: str | None = None
    layers: int | None = None
    prompts: Path | None = None
    workload: Workload | None = None
    gen_len: int | None = None
    batch: int | None = None
    micro_batch: int | None = None
    policy: Mapping[str, Any] = field(default_factory=dict)
    predictor: Path | None = None
    modifiers: Modifiers = field(default_factory=Modifiers)
    dtype: DType | None = None
    sampling: Sampling = field(default_factory=Sampling)
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        if (self.checkpoint is None) == (self.random_weights is None):
            raise BadInput("give weights: either --checkpoint FOLDER or --random-weights MODEL")
        if (self.prompts is None) == (self.workload is None):
            raise BadInput("give prompts: either --prompts FILE.jsonl or --workload WORKLOAD")
        if self.checkpoint is not None and self.layers is not None:
            raise BadInput(
                "--layers shortens models with --random-weights; a checkpoint has its own"
            )
        if self.workload is not None and self.batch is None:
            raise BadInput("--workload draws as many prompts as the batch has: give --batch N")
        if self.prompts is not None and self.gen_len is None:
            raise BadInput("give --gen-len, the tokens to generate for each prompt of the file")


@dataclass(frozen=True)
class Output:
    """What a run leaves, and how.

    Parameters
    ----------
    folder: of the results.
    resume: go on with an interrupted run. verify: compare with the reference implementation.
    profile: write the PyTorch profiler's trace beside the timeline.
    check_weights: look for NaN and infinite weights first.
    progress: show the bar; None: on a terminal.
    """

    folder: Path
    resume: bool = False
    verify: bool = False
    profile: bool = False
    check_weights: bool = True
    progress: bool | None = None

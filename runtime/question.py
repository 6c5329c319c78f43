"""What a run was asked, as plain values: an interrupted run is resumed for the same question."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runtime.prompts import Prompts
from runtime.sampling_settings import Sampling
from schedules.errors import BadInput
from schedules.policy import Policy
from schedules.task import DType

Question = Mapping[str, Any]

SAMPLES, SAMPLE_BYTES = 64, 4096  # of each weights file: 256 KiB, so that a hash takes no time


def question(
    schedule: str,
    policy: Policy,
    checkpoint: str,
    prompts: Prompts,
    gen_len: int,
    sampling: Sampling,
    eos_token_ids: tuple[int, ...],
    dtype: DType,
    device: str,
    n_gpus: int,
    modifiers: Mapping[str, Any],
    predictor: str | None = None,
) -> dict[str, Any]:
    """What decides the tokens, bit for bit. `checkpoint` is from one of the functions below, and
    `predictor` names the one that takes the place of the routers."""
    return {
        "schedule": schedule,
        "policy": policy.model_dump(),
        "checkpoint": checkpoint,
        "prompts": prompts.digest,
        "n_prompts": len(prompts),
        "gen_len": gen_len,
        "sampling": sampling.to_dict(),
        "eos_token_ids": sorted(eos_token_ids),
        "dtype": dtype,
        "device": device,
        "n_gpus": n_gpus,
        "modifiers": dict(modifiers),
        "predictor": predictor,
    }


def random_identity(model: str, n_layers: int, seed: int) -> str:
    """Names random weights."""
    return f"random weights of {model}, {n_layers} layers, seed {seed}"


def folder_identity(folder: Path) -> str:
    """SHA-256 that tells checkpoints apart, wherever they lie: of `config.json`, and of name, size
    and evenly spaced samples of every weights file.

    Raises `BadInput` when a file cannot be read.
    """
    sha = hashlib.sha256()
    try:
        sha.update((folder / "config.json").read_bytes())
        for path in sorted(folder.glob("*.safetensors")):
            size = path.stat().st_size
            sha.update(f"{path.name} {size}\n".encode())
            with path.open("rb") as file:
                for i in range(SAMPLES):
                    file.seek(i * max(0, size - SAMPLE_BYTES) // (SAMPLES - 1))
                    sha.update(file.read(SAMPLE_BYTES))
    except OSError as error:
        where = os.fspath(error.filename or folder)
        raise BadInput(f"'{where}' cannot be read: {error.strerror or error}") from None
    return f"sha256:{sha.hexdigest()}"


def first_difference(now: Question, before: Question) -> str | None:
    """A clause that names a value that differs, None when the questions are the same.

    >>> first_difference({"gen_len": 64}, {"gen_len": 32})
    'gen_len was 32, now it is 64'
    >>> first_difference({"policy": {"N": 4}}, {"policy": {"N": 8}})
    'policy N was 8, now it is 4'
    """
    for key in dict.fromkeys([*before, *now]):
        old, new = before.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            inner = first_difference(new, old)
            if inner is not None:
                return f"{key} {inner}"
        elif old != new:
            if key in ("checkpoint", "prompts", "predictor"):
                return f"the {key} {'are' if key == 'prompts' else 'is'} not the same"
            return f"{key} was {old}, now it is {new}"
    return None

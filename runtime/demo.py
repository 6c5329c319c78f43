"""A model, a tokenizer and prompts to try the runtime with, made from what is at hand.

    python -m runtime.demo FOLDER

writes a Mixtral with random weights as `transformers` saves it (`model/`) and prompts as text
(`prompts.jsonl`). The tokenizer is trained on the documentation of Python's standard library, from
which the prompts are taken too. What the model generates is nonsense; that every schedule generates
the same nonsense as `transformers` is what can be seen.
"""

import inspect
import json
import math
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import MixtralConfig, MixtralForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging

from schedules.errors import BadInput, MoelabError

MODULES = (
    *("argparse", "calendar", "collections", "configparser", "csv", "datetime", "decimal"),
    *("difflib", "doctest", "email.message", "fractions", "functools", "inspect", "ipaddress"),
    *("json", "logging", "mailbox", "optparse", "pathlib", "pickletools", "random", "re"),
    *("shutil", "statistics", "string", "subprocess", "tarfile", "textwrap", "threading"),
    *("turtle", "unittest.case", "urllib.parse", "uuid", "zipfile"),
)
START, END = "<s>", "</s>"
SHORTEST, LONGEST = 20, 200  # words of a prompt
SPREAD = 67  # prime to the span of lengths, so that neighbours differ
GAIN = 1.2  # of a matrix: random text soon repeats itself below, and grows out of bounds above


def write_demo(
    folder: str | Path,
    prompts: int = 24,
    layers: int = 6,
    hidden_size: int = 512,
    expert_size: int = 1024,
    experts: int = 8,
    vocabulary: int = 4096,
    seed: int = 0,
) -> Path:
    """Write `model/` and `prompts.jsonl`; returns the folder.

    Parameters
    ----------
    prompts: how many; between 20 and 200 words each.
    layers, hidden_size, expert_size, experts: of the Mixtral, in float32; two experts per token,
        8 heads.
    vocabulary: tokens, at least the 256 bytes, their beginning and their end.
    seed: of the weights.

    Raises `BadInput` for sizes that cannot be, `MoelabError` when nothing can be written there.
    """
    if hidden_size % 16 or vocabulary < 258 or min(prompts, layers, expert_size, experts - 1) < 1:
        raise BadInput(
            "a demo model needs a hidden size that 16 divides, a vocabulary of at least 258, two "
            "experts, and at least one prompt and layer"
        )
    folder, texts = Path(folder), list(documentation())
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tokenizer = train_tokenizer(texts, vocabulary)
        tokenizer.save_pretrained(folder / "model")
        config = MixtralConfig(
            vocab_size=len(tokenizer),
            hidden_size=hidden_size,
            intermediate_size=expert_size,
            num_hidden_layers=layers,
            num_attention_heads=8,
            num_key_value_heads=8,
            num_local_experts=experts,
            num_experts_per_tok=2,
            max_position_embeddings=1024,
            initializer_range=GAIN / math.sqrt(hidden_size),
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
        save_model(config, folder / "model", seed)
        lines = [json.dumps({"prompt": text}) for text in excerpts(texts, prompts)]
        (folder / "prompts.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    except OSError as error:
        raise MoelabError(f"cannot write '{folder}': {error.strerror or error}") from None
    return folder


def documentation() -> Iterator[str]:
    """The docstrings of the standard library's modules, of their classes and functions.

    Raises `MoelabError` when Python runs without them (`-OO`).
    """
    if not inspect.getdoc(json):
        raise MoelabError("Python runs without docstrings (-OO), of which the demo is made")
    for name in MODULES:
        module = import_module(name)
        for value in (module, *vars(module).values()):
            if value is module or getattr(value, "__module__", None) == name:
                text = inspect.getdoc(value)
                if text:
                    yield text


def train_tokenizer(texts: Sequence[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE: every text can be encoded, and comes back as it was."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token=START, eos_token=END)


def save_model(config: MixtralConfig, folder: Path, seed: int) -> None:
    """A model with random weights, as `transformers` saves it."""
    logging.disable_progress_bar()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        MixtralForCausalLM(config).save_pretrained(folder)


def excerpts(texts: Sequence[str], count: int) -> list[str]:
    """`count` beginnings of the longer texts, of unequal lengths."""
    long = sorted({text for text in texts if len(text.split()) >= LONGEST})
    span = LONGEST - SHORTEST
    return [
        " ".join(long[i * len(long) // count % len(long)].split()[: SHORTEST + i * SPREAD % span])
        for i in range(count)
    ]


def main(arguments: Sequence[str]) -> int:
    """`python -m runtime.demo FOLDER`."""
    if len(arguments) != 1:
        print("usage: python -m runtime.demo FOLDER", file=sys.stderr)
        return 2
    try:
        folder = write_demo(arguments[0])
    except MoelabError as error:
        print(f"moelab: {error}", file=sys.stderr)
        return 1
    size = sum(path.stat().st_size for path in (folder / "model").glob("*.safetensors"))
    print(
        f"{folder}: prompts, and a Mixtral with {size / 2**20:.0f} MiB of random weights. What it "
        "generates is nonsense,\nand must be the same nonsense that transformers generates."
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

"""The tokenizer of a checkpoint folder, or a stand-in that says why there is none."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from schedules.errors import BadInput

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json")


class Tokenizer(Protocol):
    """Text to token ids and back."""

    def encode(self, text: str) -> list[int]:
        """Token ids with the special tokens that the model expects, as BOS; no chat template."""

    def decode(self, token_ids: Sequence[int]) -> str | None:
        """Text without special tokens; None without a tokenizer."""


@dataclass(frozen=True)
class NoTokenizer:
    """Stands for a tokenizer that is not there: prompts must be token ids, text comes out null."""

    reason: str

    def encode(self, text: str) -> list[int]:
        """Raises `BadInput` with the reason."""
        raise BadInput(f"{self.reason}; give prompt_token_ids instead of text")

    def decode(self, token_ids: Sequence[int]) -> str | None:
        """None."""
        return None


@dataclass(frozen=True)
class FolderTokenizer:
    """A tokenizer of the `transformers` library."""

    inner: Any

    def encode(self, text: str) -> list[int]:
        """Token ids with the special tokens that the model expects."""
        return [int(i) for i in self.inner(text)["input_ids"]]

    def decode(self, token_ids: Sequence[int]) -> str | None:
        """Text without special tokens."""
        return str(self.inner.decode(list(token_ids), skip_special_tokens=True))


def load_tokenizer(folder: Path | None) -> Tokenizer:
    """The tokenizer in a checkpoint folder, from local files alone; no network, no foreign code.

    Where there is none, or it cannot be loaded, a `NoTokenizer` says so when text is given.
    """
    if folder is None:
        return NoTokenizer("random weights have no tokenizer")
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        return NoTokenizer(f"the folder '{folder}' holds no tokenizer")
    from transformers import AutoTokenizer

    try:
        return FolderTokenizer(
            AutoTokenizer.from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=False
            )
        )
    except Exception as error:  # the library raises what its many tokenizers raise
        text = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        return NoTokenizer(f"the tokenizer in '{folder}' cannot be loaded: {text}")

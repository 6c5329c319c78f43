"""Text that every Python has: the help topics of `pydoc`, about 370,000 characters of English.

They are one module of the standard library, `pydoc_data.topics`, made from the language reference
when a version of Python is released. So the text depends on the version alone; its hash is part of
every result.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pydoc_data.topics import topics

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor

from schedules.errors import BadInput

HELD_OUT = 10
"""One topic in so many is held out."""

BYTES = 256
"""Byte-level tokens: the smallest vocabulary."""


@dataclass(frozen=True, eq=False)
class Text:
    """Token ids, and where they come from.

    Parameters
    ----------
    training, held_out: token ids, shape (tokens,); no paragraph is in both.
    vocabulary: number of different token ids.
    characters: of both parts together.
    sha256: of both parts together, before tokenization.
    """

    training: Tensor
    held_out: Tensor
    vocabulary: int
    characters: int
    sha256: str


def read_text(vocabulary: int, characters: int | None = None) -> Text:
    """The help topics as token ids; `characters` keeps the beginning of each part only.

    A byte-level BPE is trained on the training part. Raises `BadInput` when the vocabulary has no
    room for all bytes.
    """
    if vocabulary < BYTES:
        raise BadInput(f"a vocabulary of {vocabulary} tokens has no room for {BYTES} bytes")
    kept = without_repetition(topics)
    training, held_out = (part[:characters] for part in split(kept))
    tokenizer = train_tokenizer([training], vocabulary)
    return Text(
        training=torch.tensor(tokenizer.encode(training).ids),
        held_out=torch.tensor(tokenizer.encode(held_out).ids),
        vocabulary=tokenizer.get_vocab_size(),
        characters=len(training) + len(held_out),
        sha256=hashlib.sha256((training + held_out).encode()).hexdigest(),
    )


def without_repetition(pages: Mapping[str, str]) -> list[str]:
    """Pages in the order of their names, each paragraph only where it comes first.

    Topics contain one another, so a page that is held out would otherwise be known by heart.

    >>> without_repetition({"b": "two\\n\\n three", "a": "one\\n\\ntwo"})
    ['one\\n\\ntwo', ' three']
    """
    seen: set[str] = set()

    def fresh(page: str) -> Iterator[str]:
        for paragraph in page.split("\n\n"):
            words = " ".join(paragraph.split())
            if words and words not in seen:
                seen.add(words)
                yield paragraph.strip("\n")

    return [text for name in sorted(pages) if (text := "\n\n".join(fresh(pages[name])))]


def split(pages: Sequence[str]) -> tuple[str, str]:
    """Training text and held-out text: whole pages, every tenth is held out."""
    training = [page for i, page in enumerate(pages) if (i + 1) % HELD_OUT]
    held_out = [page for i, page in enumerate(pages) if not (i + 1) % HELD_OUT]
    return "\n\n".join(training), "\n\n".join(held_out)


def train_tokenizer(texts: Sequence[str], vocabulary: int) -> Tokenizer:
    """Byte-level BPE: every text can be encoded, and comes back as it was."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def windows(tokens: Tensor, context: int) -> Tensor:
    """The tokens one after the other in rows, shape (rows, context + 1); the rest is left out.

    The last token of a row is only predicted; it is the first of the next row.
    """
    rows = (len(tokens) - 1) // context
    if rows < 1:
        raise BadInput(f"a text of {len(tokens)} tokens is shorter than a context of {context}")
    return tokens[: rows * context + 1].unfold(0, context + 1, context)


def random_windows(tokens: Tensor, context: int, rows: int, seed: int) -> Iterator[Tensor]:
    """Batches of rows that begin anywhere, shape (rows, context + 1), without end."""
    generator = torch.Generator().manual_seed(seed)
    every = tokens.unfold(0, context + 1, 1)
    while True:
        yield every[torch.randint(len(every), (rows,), generator=generator)]

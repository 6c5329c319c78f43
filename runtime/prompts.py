"""The prompts of a run: from a file of JSON Lines, or random ones with a workload's lengths."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from runtime.tokenizer import Tokenizer
from schedules.errors import BadInput
from schedules.length_files import read_text
from schedules.lengths import positive_int
from schedules.validated import shown
from schedules.workload import Workload

IDS, TEXT = "prompt_token_ids", "prompt"


@dataclass(frozen=True)
class Prompts:
    """Token ids of each prompt, in the order of the file.

    Parameters
    ----------
    token_ids: one tuple per prompt, none empty.
    name: file name or workload, for results.
    places: where each prompt stands, for errors.
    """

    token_ids: tuple[tuple[int, ...], ...]
    name: str
    places: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.token_ids)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of each prompt."""
        return tuple(map(len, self.token_ids))

    @property
    def digest(self) -> str:
        """SHA-256 of all token ids: equal for equal prompts in equal order, whatever the file."""
        sha = hashlib.sha256()
        for ids in self.token_ids:
            sha.update(np.array([len(ids), *ids], dtype="<i8").tobytes())
        return sha.hexdigest()

    def check_context(self, gen_len: int, max_context: int, model: str) -> None:
        """Raise `BadInput` naming the first prompt that leaves no room for `gen_len` tokens."""
        positive_int(gen_len, "gen_len")
        for place, length in zip(self.places, self.lengths, strict=True):
            if length + gen_len > max_context:
                raise BadInput(
                    f"{place}: the prompt has {length} tokens and {gen_len} are to be generated, "
                    f"{length + gen_len} positions; model '{model}' has {max_context}"
                )


def read_prompts(path: Path, vocab_size: int, tokenizer: Tokenizer) -> Prompts:
    """The prompts of a file of JSON Lines, one object per line; blank lines are skipped.

    Each object has either `prompt` (text, for the tokenizer) or `prompt_token_ids` (whole numbers
    from 0 to `vocab_size` - 1); other keys are ignored. The same prompt may come several times.

    Raises `BadInput` (file, line, what would be right) for anything else, and for no prompts.
    """
    token_ids, places = [], []
    for place, entry in _objects(path):
        try:
            ids = _token_ids(entry, tokenizer)
            _check_ids(ids, vocab_size)
        except BadInput as error:
            raise BadInput(f"{place}: {error}") from None
        token_ids.append(tuple(ids))
        places.append(place)
    if not token_ids:
        raise BadInput(f"{path} holds no prompts; it must hold at least one")
    return Prompts(tuple(token_ids), path.name, tuple(places))


def draw_prompts(workload: Workload, n: int, vocab_size: int, seed: int = 0) -> Prompts:
    """`n` prompts of random token ids, with the lengths that a schedule counts for the workload.

    Where the workload is padded, every prompt is as long as its longest. Prompt i depends on
    `seed`, i and its length alone. Raises `BadInput` unless `n` is at least 1.
    """
    lengths = workload.lengths(n)
    token_ids = tuple(
        tuple(np.random.default_rng((seed, i)).integers(vocab_size, size=length).tolist())
        for i, length in enumerate(lengths)
    )
    places = tuple(f"prompt {i} of workload '{workload.name}'" for i in range(1, n + 1))
    return Prompts(token_ids, workload.name, places)


def _objects(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    # not str.splitlines, which also cuts at U+2028 and the like inside of a text
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise BadInput(f"{place}: not JSON ({error})") from None
        if not isinstance(entry, dict):
            raise BadInput(
                f"{place}: {shown(entry)} is not an object with {TEXT} (text) or {IDS} (a list)"
            )
        yield place, entry


def _token_ids(entry: Mapping[str, Any], tokenizer: Tokenizer) -> Sequence[Any]:
    if (TEXT in entry) == (IDS in entry):
        has = "both" if TEXT in entry else "neither"
        raise BadInput(f"the object has {has} of {TEXT} (text) and {IDS} (a list); give one")
    if IDS in entry:
        ids = entry[IDS]
        if not isinstance(ids, list) or not ids:
            raise BadInput(f"{IDS} is {shown(ids)}; it must be a list of token ids, not empty")
        return ids
    text = entry[TEXT]
    if not isinstance(text, str):
        raise BadInput(f"{TEXT} is {shown(text)}; it must be text")
    ids = tokenizer.encode(text)
    if not ids:
        raise BadInput(f"{TEXT} is {shown(text)}, which has no tokens; it must have at least one")
    return ids


def _check_ids(ids: Sequence[Any], vocab_size: int) -> None:
    for position, value in enumerate(ids):
        if type(value) is not int or not 0 <= value < vocab_size:
            raise BadInput(
                f"token {position} of the prompt is {shown(value)}; it must be a whole number "
                f"from 0 to {vocab_size - 1}"
            )

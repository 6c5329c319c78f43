"""The references of `verify` for a model with an encoder: what its decoder would choose.

The token ids that a reference is given are a prompt and the answer's tokens but the last.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from runtime.changes import MakeChange, no_change
from runtime.plain_encoder_decoder import forced_logits
from runtime.weights import WeightSource

Logits = Callable[[Sequence[int], int], Tensor]


def plain_seq2seq_logits(source: WeightSource, make_change: MakeChange = no_change) -> Logits:
    """By the plain model, or one changed alike."""

    def logits(ids: Sequence[int], n: int) -> Tensor:
        prompt, answer = _split(ids, n)
        return forced_logits(source, prompt, answer, make_change())

    return logits


def transformers_seq2seq_logits(folder: Path, dtype: torch.dtype, start_token: int) -> Logits:
    """By the library, token by token with its caches, as it generates: over an answer in one pass
    the decoder's experts would count all its tokens against their capacity."""
    from transformers import AutoModelForSeq2SeqLM

    model: Any = AutoModelForSeq2SeqLM.from_pretrained(
        str(folder), dtype=dtype, local_files_only=True, trust_remote_code=False
    ).eval()

    def logits(ids: Sequence[int], n: int) -> Tensor:
        prompt, answer = _split(ids, n)
        made, cache = [], None
        with torch.inference_mode():
            encoded = model.encoder(torch.tensor([prompt]))
            for token in [start_token, *answer]:
                read = torch.tensor([[token]])
                out = model(
                    encoder_outputs=encoded,
                    decoder_input_ids=read,
                    past_key_values=cache,
                    use_cache=True,
                )
                cache = out.past_key_values
                made.append(out.logits[0, -1])
        return torch.stack(made)

    return logits


def _split(ids: Sequence[int], n: int) -> tuple[list[int], list[int]]:
    """The prompt, and all but the last of the answer's n tokens."""
    prompt = len(ids) - n + 1
    return list(ids[:prompt]), list(ids[prompt:])

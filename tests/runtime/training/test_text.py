"""The text: the same every time, nothing of it both in training and held out."""

import pytest
import torch

from runtime.training.text import (
    random_windows,
    read_text,
    split,
    train_tokenizer,
    windows,
    without_repetition,
)
from schedules.errors import BadInput


def paragraphs(text: str) -> set[str]:
    return {" ".join(part.split()) for part in text.split("\n\n")}


def test_no_paragraph_is_in_both_parts() -> None:
    from pydoc_data.topics import topics

    training, held_out = split(without_repetition(topics))
    assert len(held_out) > 10_000
    assert len(training) > 5 * len(held_out)
    assert paragraphs(training) & paragraphs(held_out) == set()
    every = set().union(*map(paragraphs, topics.values())) - {""}
    assert paragraphs(training) | paragraphs(held_out) == every


def test_every_tenth_page_is_held_out() -> None:
    pages = [str(i) for i in range(1, 22)]
    training, held_out = split(pages)
    assert held_out.split() == ["10", "20"]
    assert len(training.split()) == 19


def test_text_is_the_same_twice() -> None:
    first, second = (read_text(300, 3000) for _ in range(2))
    assert first.sha256 == second.sha256
    assert first.vocabulary == second.vocabulary == 300
    assert torch.equal(first.training, second.training)
    assert torch.equal(first.held_out, second.held_out)
    assert first.characters == 6000


def test_tokens_come_back_as_text() -> None:
    tokenizer = train_tokenizer(["the cat and the hat"], 260)
    text = "the cät\n\n  sat"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_vocabulary_holds_all_bytes() -> None:
    with pytest.raises(BadInput, match="a vocabulary of 255 tokens has no room for 256 bytes"):
        read_text(255)


def test_windows_cover_the_text_once() -> None:
    rows = windows(torch.arange(10), 3)
    assert rows.tolist() == [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7, 8, 9]]
    assert windows(torch.arange(9), 3).tolist() == [[0, 1, 2, 3], [3, 4, 5, 6]]
    with pytest.raises(BadInput, match="a text of 3 tokens is shorter than a context of 3"):
        windows(torch.arange(3), 3)


def test_random_windows_follow_from_the_seed() -> None:
    text = torch.arange(50)
    first, again = (random_windows(text, 4, 6, seed=3) for _ in range(2))
    batches = [next(first) for _ in range(3)]
    assert all(torch.equal(batch, next(again)) for batch in batches)
    assert not torch.equal(batches[0], batches[1])
    assert not torch.equal(batches[0], next(random_windows(text, 4, 6, seed=4)))
    assert all((batch.diff(dim=1) == 1).all() and batch.shape == (6, 5) for batch in batches)

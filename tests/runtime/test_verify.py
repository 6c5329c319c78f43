"""Verification: finds what is wrong, calls a tie a tie, and is right about real models."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from runtime.journal import Finished
from runtime.verify import (
    TOLERANCE_EPS,
    Reference,
    compare,
    plain_reference,
    transformers_reference,
    verify,
)
from schedules.errors import BadInput, MoelabError

VOCAB = 12


def truth(ids: Sequence[int], n: int) -> torch.Tensor:
    """Logits that depend on all tokens before."""
    rows = []
    for end in range(len(ids) - n + 1, len(ids) + 1):
        generator = torch.Generator().manual_seed(sum((i + 1) * t for i, t in enumerate(ids[:end])))
        rows.append(torch.randn(VOCAB, generator=generator) * 10)
    return torch.stack(rows)


REFERENCE = Reference("the truth", truth)
PROMPTS = [(1, 2, 3), (4,), (5, 6)]


def greedy(index: int, gen_len: int, eos: Sequence[int] = ()) -> Finished:
    tokens: list[int] = []
    while len(tokens) < gen_len and not set(tokens) & set(eos):
        tokens.append(int(truth([*PROMPTS[index], *tokens], 1).argmax()))
    return Finished(index, tuple(tokens), "stop" if set(tokens) & set(eos) else "length")


def check(sequences, gen_len=6, eos=(), dtype="float32"):
    return verify(REFERENCE, PROMPTS, sequences, gen_len, eos, dtype)


def test_right_tokens() -> None:
    found = check([greedy(i, 6) for i in range(3)])
    assert found.ok
    assert found.sentence == "all 18 tokens of 3 sequences equal those of the truth"
    assert found.to_dict()["differences"] == []


def test_the_end_token_is_respected() -> None:
    eos = [greedy(0, 6).token_ids[2]]
    sequences = [greedy(i, 6, eos) for i in range(3)]
    assert len(sequences[0].token_ids) <= 3
    assert check(sequences, eos=eos).ok


@pytest.mark.parametrize("position", range(6))
def test_a_wrong_token_is_found_where_it_is(position: int) -> None:
    right = greedy(1, 6).token_ids
    prefix = right[:position]
    ranked = truth([*PROMPTS[1], *prefix], 1)[0].topk(2)
    tokens = [*prefix, int(ranked.indices[1])]
    while len(tokens) < 6:  # as the model goes on after it
        tokens.append(int(truth([*PROMPTS[1], *tokens], 1).argmax()))
    found = check([greedy(0, 6), Finished(1, tuple(tokens), "length")])
    assert not found.ok
    assert (found.differing, found.ties, found.tokens) == (1, 0, 12)
    difference = found.differences[0]
    assert (difference.index, difference.position) == (1, position)
    assert (difference.token, difference.reference) == (tokens[position], right[position])
    gap = float(ranked.values[0] - ranked.values[1])
    assert difference.gap == difference.best_gap == pytest.approx(gap)
    assert found.sentence.startswith(
        "11 of 12 tokens of 2 sequences equal those of the truth; 1 other token, first in "
        f"sequence 1 at position {position}: {tokens[position]}, the reference chooses "
        f"{right[position]} (gap "
    )


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize(("share", "tie"), [(0.5, True), (0.99, True), (1.01, False), (3, False)])
def test_a_tie_is_a_gap_within_the_tolerance(dtype, share: float, tie: bool) -> None:
    tolerance = TOLERANCE_EPS[dtype] * torch.finfo(getattr(torch, dtype)).eps * 20
    logits = torch.tensor([[1.0, 20.0, 20.0 - share * tolerance, -3.0]], dtype=torch.float64)
    (difference,) = compare(Finished(0, (2,), "length"), logits, dtype)
    assert difference.tolerance == pytest.approx(tolerance)
    assert difference.is_tie is tie


def test_ties_are_counted_and_are_no_error() -> None:
    near = torch.tensor([[0.0, 5.0, 5.001, 1.0]])
    reference = Reference("r", lambda ids, n: near.expand(n, -1))
    found = verify(reference, [(1,)], [Finished(0, (1, 2), "length")], 2, (), "float16")
    assert found.ok
    assert (found.ties, found.differing) == (1, 0)
    assert found.sentence == (
        "1 of 2 tokens of 1 sequence equal those of r; 1 near-tie (largest gap 0.001, tolerance "
        "0.039)"
    )


def test_any_of_equal_logits_is_right() -> None:
    logits = torch.tensor([[3.0, 7.0, 7.0]])
    assert compare(Finished(0, (2,), "length"), logits, "float32") == []


def test_logits_that_are_not_numbers_are_not_right() -> None:
    logits = torch.tensor([[torch.nan, 7.0, 7.0]])
    (difference,) = compare(Finished(0, (2,), "length"), logits, "float32")
    assert not difference.is_tie


@pytest.mark.parametrize(
    ("token_ids", "right"), [((1, 2), 3), ((1, 9, 2), 2), ((1, 2, 3, 4), 3), ((9, 9), 1)]
)
def test_a_sequence_that_ends_at_the_wrong_place(token_ids, right: int) -> None:
    with pytest.raises(MoelabError, match=rf"sequence 0 has . tokens; its end is after {right}"):
        check([Finished(0, token_ids, "length")], gen_len=3, eos=(9,))


# -- real models -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Mixtral of two layers, as a checkpoint."""
    from transformers import MixtralConfig, MixtralForCausalLM

    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=97,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=4,
        num_experts_per_tok=2,
        max_position_embeddings=64,
        initializer_range=0.3,
        bos_token_id=1,
        eos_token_id=2,
    )
    path = tmp_path_factory.mktemp("mixtral")
    MixtralForCausalLM(config).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def generated(folder: Path) -> list[Finished]:
    """What `generate` of transformers says, with its own KV cache."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    found = []
    for index, prompt in enumerate(PROMPTS):
        ids = torch.tensor([prompt])
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=10, do_sample=False
        )
        tokens = tuple(out[0, len(prompt) :].tolist())
        found.append(Finished(index, tokens, "stop" if tokens[-1] == 2 else "length"))
    return found


def test_transformers_agrees_with_itself(folder: Path, generated: list[Finished]) -> None:
    reference = transformers_reference(folder, "float32")
    assert reference.name.startswith("transformers ")
    found = verify(reference, PROMPTS, generated, 10, (2,), "float32")
    assert found.ok
    assert found.tokens == sum(len(s.token_ids) for s in generated)
    first = generated[0]
    wrong = Finished(0, ((first.token_ids[0] + 1) % 97, *first.token_ids[1:]), first.finish)
    assert not verify(reference, PROMPTS, [wrong], 10, (2,), "float32").ok


def test_the_plain_model_agrees_with_transformers(folder: Path, generated: list[Finished]) -> None:
    from runtime.checkpoint import Checkpoint

    reference = plain_reference(Checkpoint(folder))
    found = verify(reference, PROMPTS, generated, 10, (2,), "float32")
    assert found.ok, found.sentence


def test_a_folder_that_transformers_cannot_load(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "mixtral"}')
    with pytest.raises(BadInput, match=r"cannot be verified, transformers says: .+"):
        transformers_reference(tmp_path, "float32")

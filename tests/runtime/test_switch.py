"""Switch Transformers against transformers: the same logits, the same tokens."""

import pytest
import torch
import transformers
from packaging.version import Version

from runtime.checkpoint import Checkpoint, check_finite
from runtime.functions import biased_attention
from runtime.plain import plain_generate
from runtime.plain_encoder_decoder import PlainEncoderDecoder, forced_logits, generate
from runtime.random_weights import RandomWeights
from schedules.errors import BadInput
from schedules.model_presets import load_model
from tests.runtime.checkpoints import (
    SWITCH,
    random_prompts,
    save_checkpoint,
    save_switch,
    switch_reference,
)

PROMPTS = random_prompts([5, 12, 12, 1, 90, 3])
GEN_LEN = 8
ALL_SPARSE = {"num_sparse_encoder_layers": 4, "num_sparse_decoder_layers": 2}
ONE_OF_THREE = {"num_layers": 3, "num_decoder_layers": 3, "num_sparse_encoder_layers": 1}
NEAR = {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 20}
OVERFLOW = "experts that overflow"
COUNTS_SEQUENCES = Version(transformers.__version__) >= Version("5.23")
"""5.17 counts the tokens of an expert otherwise than by sequence, as the paper and 5.23 do."""
CASES = {
    "every second layer sparse": {},
    "all layers sparse": ALL_SPARSE,
    "one of three layers sparse": ONE_OF_THREE,
    "eight experts": {"num_experts": 8},
    "not tied": {"tie_word_embeddings": False},
    "router bias": {"router_bias": True},
    "near positions": NEAR,
    "wide heads": {"num_heads": 3, "d_kv": 40},
    OVERFLOW: {"expert_capacity": 3, "num_experts": 4} | ALL_SPARSE,
}


def relative_error(got, wanted):
    return float((got.double() - wanted.double()).norm() / wanted.double().norm())


@torch.no_grad()
def reference_logits(model, prompt, ids):
    """Logits (t + 1, vocab_size) as transformers generates: token by token, with its caches.

    In one pass over the answer the decoder's experts would count all its tokens.
    """
    encoded = model.encoder(torch.tensor([prompt]))
    cache, made = None, []
    for token in [SWITCH["decoder_start_token_id"], *ids]:
        out = model(
            encoder_outputs=encoded,
            decoder_input_ids=torch.tensor([[token]]),
            past_key_values=cache,
            use_cache=True,
        )
        cache = out.past_key_values
        made.append(out.logits[0, -1])
    return torch.stack(made)


def reference_tokens(model, prompts, gen_len):
    """Greedy tokens of a batch, padded on the right, by transformers' own loop."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[*p, *[0] * (longest - len(p))] for p in prompts])
    mask = torch.tensor([[1] * len(p) + [0] * (longest - len(p)) for p in prompts])
    made = model.generate(
        ids, attention_mask=mask, max_new_tokens=gen_len, do_sample=False, eos_token_id=None
    )
    return made[:, 1:].tolist()


@pytest.mark.parametrize("case", CASES)
def test_logits_and_tokens_are_those_of_transformers(case, tmp_path):
    if case == OVERFLOW and not COUNTS_SEQUENCES:
        pytest.skip("this version of transformers counts an expert's tokens differently")
    folder = save_switch(tmp_path, **CASES[case])
    source, model = Checkpoint(folder), switch_reference(folder)
    for prompt, answer in zip(PROMPTS, random_prompts([9, 3, 0, 20, 40, 1], seed=5), strict=True):
        wanted = reference_logits(model, prompt, answer)
        assert wanted.std() > 0.5  # logits differ clearly
        assert relative_error(forced_logits(source, prompt, answer), wanted) < 1e-4
    wanted_tokens = reference_tokens(model, PROMPTS, GEN_LEN)
    assert generate(source, PROMPTS, GEN_LEN) == wanted_tokens


def test_tokens_differ_between_prompts_and_in_an_answer(tmp_path):
    """So that the comparison above means something."""
    source = Checkpoint(save_switch(tmp_path, tie_word_embeddings=False))
    tokens = generate(source, PROMPTS, GEN_LEN)
    assert len({tuple(answer) for answer in tokens}) == len(PROMPTS)
    assert max(len(set(answer)) for answer in tokens) > 2


def test_capacity_changes_what_the_encoder_makes_of_a_long_prompt_only(tmp_path):
    """Twelve tokens on four experts: one of them has more than two, for certain."""
    changes = {"num_experts": 4} | ALL_SPARSE
    few = Checkpoint(save_switch(tmp_path / "few", expert_capacity=2, **changes))
    many = Checkpoint(save_switch(tmp_path / "many", expert_capacity=12, **changes))
    long, short = PROMPTS[1], PROMPTS[3]
    assert relative_error(forced_logits(few, long, []), forced_logits(many, long, [])) > 0.01
    assert torch.equal(forced_logits(few, short, long), forced_logits(many, short, long))


def test_bfloat16_is_as_near_to_the_truth_as_transformers(tmp_path):
    """Errors against float64 arithmetic on the same weights, over several prompts and answers."""
    folder = save_switch(tmp_path, dtype=torch.bfloat16)
    source = Checkpoint(folder)
    exact, theirs = (switch_reference(folder, d) for d in (torch.float64, torch.bfloat16))
    prompts, answers = random_prompts([40] * 6, seed=2), random_prompts([12] * 6, seed=3)
    truth, other, got = [], [], []
    for prompt, answer in zip(prompts, answers, strict=True):
        truth.append(reference_logits(exact, prompt, answer))
        other.append(reference_logits(theirs, prompt, answer))
        got.append(forced_logits(source, prompt, answer))
    assert got[0].dtype == torch.bfloat16
    wanted = torch.cat(truth)
    assert relative_error(torch.cat(got), wanted) < 1.3 * relative_error(torch.cat(other), wanted)


def test_a_batch_does_not_change_a_prompt_s_tokens(tmp_path):
    source = Checkpoint(save_switch(tmp_path, expert_capacity=3))
    alone = [generate(source, [prompt], GEN_LEN)[0] for prompt in PROMPTS]
    assert generate(source, PROMPTS, GEN_LEN) == alone


def test_attention_in_small_blocks_is_the_same(tmp_path, monkeypatch):
    """Some of the queries, and of the prompts, at a time."""
    source = Checkpoint(save_switch(tmp_path))
    whole = PlainEncoderDecoder(source, PROMPTS, 1).prefill()
    for size in (1, 4 * 12 * 4 * 5, 4 * 64 * 12):
        monkeypatch.setattr(biased_attention, "BLOCK_BYTES", size)
        assert relative_error(PlainEncoderDecoder(source, PROMPTS, 1).prefill(), whole) < 1e-5


def test_the_sampler_sees_requests_and_positions(tmp_path):
    source, seen = Checkpoint(save_switch(tmp_path)), []

    def sampler(logits, requests, position):
        seen.append((tuple(logits.shape), requests.tolist(), position))
        return requests + 10 * position

    assert generate(source, PROMPTS[:2], 3, sampler) == [[0, 10, 20], [1, 11, 21]]
    assert seen == [((2, SWITCH["vocab_size"]), [0, 1], position) for position in range(3)]


def test_random_weights_of_a_preset():
    """Layers of a kind may share their memory; encoder and decoder are of different kinds."""
    tiny = {"n_layers": 4, "n_encoder_layers": 4, "hidden_size": 16, "n_heads": 2, "n_kv_heads": 2}
    tiny |= {"head_dim": 8, "expert_ffn_size": 12, "dense_ffn_size": 12, "vocab_size": 160}
    spec = load_model("switch-base-8").model_copy(update=tiny)
    source = RandomWeights(spec, shared=True, std=0.2)
    assert source.matrix(1, "up", 3).data_ptr() == source.matrix(3, "up", 3).data_ptr()
    assert source.matrix(1, "up", 3).data_ptr() != source.matrix(5, "up", 3).data_ptr()
    check_finite(source)
    tokens = generate(source, PROMPTS, GEN_LEN)
    assert tokens == generate(RandomWeights(spec, shared=True, std=0.2), PROMPTS, GEN_LEN)
    assert tokens != generate(RandomWeights(spec, seed=1, std=0.2), PROMPTS, GEN_LEN)


@pytest.mark.parametrize(
    ("prompts", "sentence"),
    [
        ([], "no prompts"),
        ([[1], []], "prompt 1 has no tokens"),
        ([[1, 160]], "prompt 0 has token 160; it must be 0 to 159"),
    ],
)
def test_prompts_that_cannot_be(prompts, sentence, tmp_path):
    with pytest.raises(BadInput, match=sentence):
        generate(Checkpoint(save_switch(tmp_path)), prompts, 1)


def test_each_plain_model_names_the_other(tmp_path):
    with pytest.raises(BadInput, match=r"has an encoder; .*plain_encoder_decoder"):
        plain_generate(Checkpoint(save_switch(tmp_path / "switch")), PROMPTS, 1)
    with pytest.raises(BadInput, match=r"has no encoder; .*runtime\.plain"):
        generate(Checkpoint(save_checkpoint(tmp_path / "llama", "llama")), PROMPTS, 1)

"""The functions against transformers: the same logits, the same tokens."""

import pytest
import torch

from runtime.checkpoint import Checkpoint
from runtime.plain import plain_generate, plain_logits
from runtime.random_weights import RandomWeights
from schedules.errors import BadInput
from schedules.model_presets import load_model
from tests.runtime.checkpoints import (
    FAMILIES,
    ROTARY,
    random_prompts,
    reference,
    reference_logits,
    reference_tokens,
    save_checkpoint,
)

PROMPTS = random_prompts([5, 12, 12, 1])
YARN = {"rope_type": "yarn", "rope_theta": 10_000.0, "factor": 4.0}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
VARIANTS = {
    "llama-linear": ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 3.0}}),
    "llama-llama3": ("llama", {"rope_parameters": LLAMA3}),
    "qwen3-yarn": ("qwen3", {"rope_parameters": YARN | {"original_max_position_embeddings": 64}}),
    "mixtral-yarn": ("mixtral", {"head_dim": 16, "rope_parameters": YARN}),
    "mistral-window": ("mistral", {"sliding_window": 40}),
    "qwen2_moe-normalised": ("qwen2_moe", {"norm_topk_prob": True, "qkv_bias": False}),
    "qwen2_moe-all-moe": ("qwen2_moe", {"decoder_sparse_step": 1, "mlp_only_layers": []}),
    "qwen3_moe-bias": ("qwen3_moe", {"attention_bias": True, "norm_topk_prob": False}),
    "olmoe-mha": ("olmoe", {"num_key_value_heads": 4, "clip_qkv": None, "norm_topk_prob": True}),
    "dbrx-unnormalised": (
        "dbrx",
        {"ffn_config": FAMILIES["dbrx"]["ffn_config"] | {"moe_normalize_expert_weights": None}},
    ),
    "dbrx-2-norm": (
        "dbrx",
        {"ffn_config": FAMILIES["dbrx"]["ffn_config"] | {"moe_normalize_expert_weights": 2.0}},
    ),
    "llama-tied": ("llama", {"tie_word_embeddings": True, "attention_bias": False}),
}
CASES = {family: (family, {}) for family in FAMILIES} | VARIANTS


def relative_error(got: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((got.double() - wanted.double()).norm() / wanted.double().norm())


@pytest.mark.parametrize("case", CASES)
def test_logits_and_tokens_are_those_of_transformers(case, tmp_path):
    family, changes = CASES[case]
    folder = save_checkpoint(tmp_path, family, **changes)
    source, model = Checkpoint(folder), reference(folder)
    for prompt in PROMPTS:
        wanted = reference_logits(model, prompt)
        assert wanted.std() > 0.5  # logits differ clearly
        assert relative_error(plain_logits(source, prompt), wanted) < 1e-5
    wanted_tokens = reference_tokens(model, PROMPTS, 6)
    assert len({tuple(tokens) for tokens in wanted_tokens}) == len(PROMPTS)
    assert plain_generate(source, PROMPTS, 6) == wanted_tokens


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", ["mixtral", "qwen2_moe", "dbrx", "qwen3"])
def test_half_precision_is_as_near_to_the_truth_as_transformers(family, dtype, tmp_path):
    """Errors against float64 arithmetic on the same weights."""
    folder = save_checkpoint(tmp_path, family, dtype=dtype)
    source, prompt = Checkpoint(folder), random_prompts([40], seed=2)[0]
    truth = reference_logits(reference(folder, torch.float64), prompt)
    theirs = relative_error(reference_logits(reference(folder, dtype), prompt), truth)
    got = plain_logits(source, prompt)
    assert got.dtype == dtype
    assert relative_error(got, truth) < 1.3 * theirs


def test_a_batch_does_not_change_a_prompt_s_tokens(tmp_path):
    source = Checkpoint(save_checkpoint(tmp_path, "qwen3_moe"))
    alone = [plain_generate(source, [prompt], 5)[0] for prompt in PROMPTS]
    assert plain_generate(source, PROMPTS, 5) == alone


def test_the_sampler_sees_requests_and_positions(tmp_path):
    source, seen = Checkpoint(save_checkpoint(tmp_path, "mixtral")), []

    def sampler(logits, requests, position):
        seen.append((tuple(logits.shape), requests.tolist(), position))
        return requests + 10 * position

    tokens = plain_generate(source, PROMPTS[:2], 3, sampler)
    vocabulary = ROTARY["vocab_size"]
    assert seen == [((2, vocabulary), [0, 1], position) for position in range(3)]
    assert tokens == [[0, 10, 20], [1, 11, 21]]


@pytest.mark.parametrize(
    ("prompts", "gen_len", "sentence"),
    [
        ([], 1, "no prompts"),
        ([[1], []], 1, "prompt 1 has no tokens"),
        ([[1, 160]], 1, "prompt 0 has token 160; it must be 0 to 159"),
        ([[1, 2, 3]], 254, "a sequence has 257 tokens"),
    ],
)
def test_prompts_that_cannot_be(prompts, gen_len, sentence):
    spec = load_model("mixtral-8x7b").model_copy(update={"vocab_size": 160, "max_context": 256})
    tiny = {"n_layers": 1, "hidden_size": 16, "n_heads": 2, "n_kv_heads": 1, "head_dim": 8}
    source = RandomWeights(spec.model_copy(update=tiny | {"expert_ffn_size": 8}))
    with pytest.raises(BadInput, match=sentence):
        plain_generate(source, prompts, gen_len)

"""What configs say of a model, and which configs are refused."""

import json
import math

import pytest
import torch

from runtime.architecture import Architecture
from runtime.architecture_families import SUPPORTED
from runtime.architecture_shapes import matrix_shapes, vector_sizes
from schedules.errors import BadInput
from schedules.model_presets import load_model
from tests.runtime.checkpoints import FAMILIES


def write(folder, family, generation=None, **changes):
    """A config.json with the values of the tiny model of a family."""
    values = {"model_type": family, "torch_dtype": "float32"} | FAMILIES[family] | changes
    (folder / "config.json").write_text(json.dumps(values))
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    return folder


def test_all_families_are_tried():
    assert set(FAMILIES) == set(SUPPORTED)


def test_values_of_a_config(tmp_path):
    arch = Architecture.from_folder(
        write(tmp_path, "olmoe", rms_norm_eps=0.25, eos_token_id=[2, 5])
    )
    assert (arch.norm_eps, arch.clip_qkv, arch.gate_norm, arch.eos_token_ids) == (
        0.25,
        1.0,
        None,
        (2, 5),
    )
    assert (arch.n_heads, arch.n_kv_heads, arch.head_dim, arch.qkv_size) == (4, 2, 16, 128)
    assert (arch.query_size, arch.kv_width, arch.shared_width) == (64, 32, 0)
    assert not arch.normalize_top_k
    assert arch.dtype == arch.router_dtype == arch.gate_dtype == torch.float32


def test_gates_and_probabilities_have_the_family_s_precision(tmp_path):
    got = {}
    for family in ("mixtral", "qwen2_moe", "dbrx"):
        arch = Architecture.from_folder(write(tmp_path, family), "float16")
        got[family] = (arch.router_dtype, arch.gate_dtype)
    half, full = torch.float16, torch.float32
    assert got == {"mixtral": (full, full), "qwen2_moe": (full, half), "dbrx": (half, half)}


def test_the_end_of_a_sequence_is_what_generation_says(tmp_path):
    arch = Architecture.from_folder(write(tmp_path, "qwen2", {"eos_token_id": [7, 8]}))
    assert arch.eos_token_ids == (7, 8)
    assert Architecture.from_folder(write(tmp_path, "qwen2", {})).eos_token_ids == (2,)
    none = write(tmp_path, "qwen2", {}, eos_token_id=None)
    assert Architecture.from_folder(none).eos_token_ids == ()


def test_rotary_frequencies(tmp_path):
    rope = Architecture.from_folder(write(tmp_path, "llama", rope_theta=100.0)).rope
    assert rope.frequencies == pytest.approx([100.0 ** (-i / 8) for i in range(8)], rel=1e-6)
    assert rope.scaling == 1.0
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
    scaled = Architecture.from_folder(write(tmp_path, "llama", rope_scaling=yarn)).rope
    assert scaled.scaling == pytest.approx(0.1 * math.log(4) + 1)


def test_dbrx_s_theta_is_under_attn_config_if_nowhere_else(tmp_path):
    section = {"kv_n_heads": 2, "clip_qkv": 8, "rope_theta": 10_000.0}
    write(tmp_path, "dbrx", attn_config=section)
    assert Architecture.from_folder(tmp_path).rope.frequencies[1] == pytest.approx(5e5 ** (-1 / 8))
    values = json.loads((tmp_path / "config.json").read_text())
    del values["rope_parameters"]
    (tmp_path / "config.json").write_text(json.dumps(values))
    arch = Architecture.from_folder(tmp_path)
    assert arch.rope.frequencies[1] == pytest.approx(1e4 ** (-1 / 8))
    assert arch.clip_qkv == 8.0


def test_the_context_ends_with_the_window(tmp_path):
    arch = Architecture.from_folder(write(tmp_path, "mistral", sliding_window=100))
    arch.check_context(100)
    with pytest.raises(BadInput, match=r"has 101 tokens .* sliding-window .* within 100"):
        arch.check_context(101)
    arch = Architecture.from_folder(write(tmp_path, "mistral", sliding_window=1000))
    arch.check_context(256)
    with pytest.raises(BadInput, match=r"has 257 tokens .* longest context is 256"):
        arch.check_context(257)
    unused = write(tmp_path, "qwen2", sliding_window=100, use_sliding_window=False)
    Architecture.from_folder(unused).check_context(256)
    partly = {"sliding_window": 100, "use_sliding_window": True, "max_window_layers": 1}
    arch = Architecture.from_folder(write(tmp_path, "qwen2", **partly))
    assert arch.sliding_window == 100


@pytest.mark.parametrize(
    ("family", "changes", "sentence"),
    [
        ("llama", {"mlp_bias": True}, r"mlp_bias.* must not"),
        ("llama", {"hidden_act": "gelu"}, "hidden_act is 'gelu'; it must be 'silu'"),
        (
            "dbrx",
            {"ffn_config": FAMILIES["dbrx"]["ffn_config"] | {"ffn_act_fn": {"name": "gelu"}}},
            "ffn_config.ffn_act_fn is 'gelu'",
        ),
        (
            "qwen3",
            {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
            "rope_type is 'dynamic'; it must be default, linear, llama3, yarn",
        ),
        (
            "llama",
            {
                "rope_scaling": {"rope_type": "longrope", "factor": 2.0}
                | {"short_factor": [1.0] * 8, "long_factor": [1.0] * 8}
                | {"original_max_position_embeddings": 64}
            },
            "rope_type is 'longrope'",
        ),
        (
            "llama",
            {"rope_scaling": {"rope_type": "linear", "factor": 2.0, "partial_rotary_factor": 0.5}},
            "partial_rotary_factor rotates 8 of 16",
        ),
        ("llama", {"rope_scaling": {"rope_type": "linear", "factor": "two"}}, "are wrong"),
        ("llama", {"rope_scaling": {"rope_type": "linear"}}, "config.json"),
        ("qwen2", {"head_dim": 15}, "head_dim is 15"),
        ("mixtral", {"quantization_config": {"bits": 4}}, "quantization_config is set"),
        ("mixtral", {"num_local_experts": "eight"}, 'num_local_experts is "eight"'),
        ("qwen3_moe", {"num_experts": None, "num_local_experts": 0}, "num_experts is null"),
    ],
)
def test_what_cannot_be_computed_is_refused_by_name(family, changes, sentence, tmp_path):
    write(tmp_path, family, **changes)
    with pytest.raises(BadInput, match=sentence) as error:
        Architecture.from_folder(tmp_path)
    assert str(error.value).startswith(str(tmp_path / "config.json"))


def test_experts_of_qwen3_may_be_called_local(tmp_path):
    write(tmp_path, "qwen3_moe")
    values = json.loads((tmp_path / "config.json").read_text())
    values["num_local_experts"] = values.pop("num_experts")
    (tmp_path / "config.json").write_text(json.dumps(values))
    arch = Architecture.from_folder(tmp_path)
    assert (arch.spec.n_experts, arch.spec.name) == (6, tmp_path.name)
    values["num_local_experts"] = 1
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(BadInput, match=r"config\.json: num_local_experts is 1"):
        Architecture.from_folder(tmp_path)


@pytest.mark.parametrize("text", [None, "{", "[]", '{"model_type": "mixtral"}'])
def test_a_config_that_is_missing_or_broken(text, tmp_path):
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(BadInput, match=r"config\.json"):
        Architecture.from_folder(tmp_path)


def test_code_that_comes_with_a_config_is_not_run(tmp_path):
    write(tmp_path, "dbrx", auto_map={"AutoConfig": "configuration_dbrx.DbrxConfig"})
    (tmp_path / "configuration_dbrx.py").write_text("raise SystemExit('was run')")
    assert Architecture.from_folder(tmp_path).clip_qkv == 1.0


def test_a_folder_that_is_none(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "none", tmp_path / "file"):
        with pytest.raises(BadInput, match="is not a folder"):
            Architecture.from_folder(path)


@pytest.mark.parametrize("name", ["deepseek-v2-lite", "opt-6.7b"])
def test_families_that_the_runtime_does_not_know(name):
    with pytest.raises(BadInput, match=f"{name}: the runtime has no family"):
        Architecture.from_spec(load_model(name))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("ffn_matrices", 2),
        ("router_bias", True),
        ("norm_bias", True),
        ("learned_positions", 99_999),
    ],
)
def test_specs_that_no_family_has(field, value):
    spec = load_model("mixtral-8x7b").model_copy(update={field: value})
    with pytest.raises(BadInput, match=f"mixtral-8x7b: {field} is {value}"):
        Architecture.from_spec(spec)


def test_a_shared_expert_needs_its_gate():
    changes = {"n_shared_experts": 1, "shared_ffn_size": 64}
    spec = load_model("mixtral-8x7b").model_copy(update=changes)
    with pytest.raises(BadInput, match="without shared_expert_gate"):
        Architecture.from_spec(spec)


def test_presets_have_their_family_s_ways():
    mixtral = Architecture.from_spec(load_model("mixtral-8x7b"))
    assert (mixtral.gate_norm, mixtral.norm_eps, mixtral.eos_token_ids) == (1.0, 1e-5, ())
    assert mixtral.rope.frequencies[1] == pytest.approx(1e6 ** (-1 / 64))
    assert mixtral.sliding_window is None
    dbrx = Architecture.from_spec(load_model("dbrx"))
    assert dbrx.transposed_down
    assert not mixtral.transposed_down


@pytest.mark.parametrize("family", SUPPORTED)
def test_shapes_add_up_to_the_parameters(family, tmp_path):
    """The shapes here and the counts of the ground are derived apart from each other."""
    arch = Architecture.from_folder(write(tmp_path, family))
    for layer in arch.spec.decoder_layers:
        matrices = matrix_shapes(arch, layer.index).values()
        vectors = vector_sizes(arch, layer.index).values()
        assert sum(s * r * c for s, r, c in matrices) + sum(vectors) == layer.parameters


def test_a_rank_has_its_share_of_the_sizes():
    whole = Architecture.from_spec(load_model("mixtral-8x7b"))
    rank = whole.sharded(1, 4)
    assert (rank.n_heads, rank.n_kv_heads, rank.ffn_width(is_moe=True)) == (8, 2, 3584)
    assert (rank.hidden_size, rank.head_dim, rank.vocabulary) == (4096, 128, (8000, 16000))
    assert rank.qkv_size == whole.qkv_size // 4
    assert whole.sharded(15, 16).n_kv_heads == 1
    assert rank.spec == whole.spec


def test_another_dtype():
    arch = Architecture.from_spec(load_model("mixtral-8x7b")).with_dtype("bfloat16")
    assert arch.dtype == torch.bfloat16
    assert arch.spec.kv_bytes_per_token == load_model("mixtral-8x7b").kv_bytes_per_token
    with pytest.raises(BadInput, match="mixtral-8x7b: dtype is 'int8'"):
        arch.with_dtype("int8")

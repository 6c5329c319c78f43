"""What configs and checkpoints of Switch Transformers say, and which are refused."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from runtime.architecture import Architecture, EncoderDecoder
from runtime.architecture_shapes import matrix_shapes, n_layers, vector_sizes
from runtime.checkpoint import Checkpoint, check_finite
from schedules.errors import BadInput
from schedules.layout import layer_at
from schedules.model_presets import load_model
from tests.runtime.checkpoints import SWITCH, save_switch


def write(folder, generation=None, **changes):
    """A config.json with the values of the tiny model."""
    values = {"model_type": "switch_transformers", "torch_dtype": "float32"} | SWITCH | changes
    (folder / "config.json").write_text(json.dumps(values))
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    return folder


# -- configs ---------------------------------------------------------------------------------------


def test_values_of_a_config(tmp_path):
    changes = {"expert_capacity": 7, "relative_attention_max_distance": 50, "d_kv": 20}
    arch = Architecture.from_folder(write(tmp_path, layer_norm_epsilon=0.25, **changes))
    assert arch.encoder_decoder == EncoderDecoder(0, 7, 50)
    assert (arch.norm_eps, arch.eos_token_ids, arch.rope.frequencies) == (0.25, (1,), ())
    assert (arch.n_heads, arch.n_kv_heads, arch.head_dim, arch.qkv_size) == (4, 4, 20, 240)
    assert (arch.ffn_width(is_moe=True), arch.ffn_width(is_moe=False)) == (96, 96)
    assert (arch.attention_scale, arch.head_scale) == (1.0, 0.125)
    assert arch.router_dtype == torch.float32
    assert n_layers(arch) == 6


def test_only_a_head_that_is_the_embedding_is_scaled(tmp_path):
    arch = Architecture.from_folder(write(tmp_path, tie_word_embeddings=False))
    assert (arch.spec.tied_embeddings, arch.head_scale) == (False, 1.0)
    mixtral = Architecture.from_spec(load_model("mixtral-8x7b"))
    assert (mixtral.attention_scale, mixtral.head_scale) == (128**-0.5, 1.0)


def test_what_generation_says_counts(tmp_path):
    said = {"decoder_start_token_id": 5, "eos_token_id": [7, 8]}
    arch = Architecture.from_folder(write(tmp_path, said))
    assert (arch.encoder_decoder.start_token, arch.eos_token_ids) == (5, (7, 8))
    unsaid = {"decoder_start_token_id": None}
    arch = Architecture.from_folder(write(tmp_path, unsaid, decoder_start_token_id=9))
    assert arch.encoder_decoder.start_token == 9


def test_presets_have_the_family_s_ways():
    arch = Architecture.from_spec(load_model("switch-base-8"))
    assert arch.encoder_decoder == EncoderDecoder(0, 64, 128)
    assert (arch.norm_eps, arch.eos_token_ids, arch.dtype) == (1e-6, (), torch.float32)
    assert arch.with_dtype("bfloat16").gate_dtype == torch.bfloat16


def test_relative_positions_set_no_limit():
    Architecture.from_spec(load_model("switch-base-8")).check_context(100_000)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"dense_act_fn": "gated-gelu"}, "dense_act_fn is 'gated-gelu'; it must be 'relu'"),
        ({"dense_act_fn": "gelu_new"}, "dense_act_fn is 'gelu_new'; it must be 'relu'"),
        ({"is_gated_act": True}, "is_gated_act is true"),
        ({"router_dtype": "bfloat16"}, "router_dtype is 'bfloat16'; it must be 'float32'"),
        ({"router_dtype": "int8"}, "transformers cannot read it"),
        ({"torch_dtype": "float16"}, "overflow in float16; run them in float32 or bfloat16"),
        ({"decoder_start_token_id": None}, "decoder_start_token_id is missing"),
        ({"decoder_start_token_id": 160}, "decoder_start_token_id is 160; .* 0 to 159"),
        ({"decoder_start_token_id": True}, "decoder_start_token_id is True"),
        ({"expert_capacity": 0}, "expert_capacity is 0; .* at least 1"),
        ({"relative_attention_max_distance": 16}, "max_distance is 16; .* at least 17"),
        ({"relative_attention_num_buckets": 2}, "relative_attention_buckets is 2; .* at least 4"),
        ({"tie_word_embeddings": "no"}, 'tie_word_embeddings is "no"'),
        ({"num_sparse_decoder_layers": 2}, "must be as frequent as"),
    ],
)
def test_what_cannot_be_computed_is_refused_by_name(changes, sentence, tmp_path):
    write(tmp_path, **changes)
    with pytest.raises(BadInput, match=sentence) as error:
        Architecture.from_folder(tmp_path)
    assert str(error.value).startswith(str(tmp_path / "config.json"))


@pytest.mark.parametrize(
    ("field", "value"),
    [("ffn_matrices", 3), ("norm_bias", True), ("qk_norm", "head"), ("top_k", 2)],
)
def test_specs_that_the_family_has_not(field, value):
    spec = load_model("switch-base-8").model_copy(update={field: value})
    with pytest.raises(BadInput, match=f"switch-base-8: {field} is .*{value}.*; the runtime needs"):
        Architecture.from_spec(spec)


def test_a_switch_transformer_without_an_encoder():
    spec = load_model("switch-base-8").model_copy(update={"n_encoder_layers": 0})
    with pytest.raises(BadInput, match="switch-base-8: n_encoder_layers is 0"):
        Architecture.from_spec(spec)


def test_neither_float16_nor_several_gpus():
    arch = Architecture.from_spec(load_model("switch-base-8"))
    with pytest.raises(BadInput, match=r"switch-base-8: .* overflow in float16"):
        arch.with_dtype("float16")
    with pytest.raises(BadInput, match=r"switch-base-8 has an encoder; .* one GPU only"):
        arch.sharded(0, 2)


@pytest.mark.parametrize("changes", [{}, {"router_bias": True}, {"num_sparse_decoder_layers": 2}])
def test_shapes_add_up_to_the_parameters(changes, tmp_path):
    """The shapes here and the counts of the ground are derived apart from each other."""
    if "num_sparse_decoder_layers" in changes:
        changes = changes | {"num_sparse_encoder_layers": 4}
    arch = Architecture.from_folder(write(tmp_path, **changes))
    for number in range(n_layers(arch)):
        matrices, vectors = matrix_shapes(arch, number).values(), vector_sizes(arch, number)
        size = sum(s * r * c for s, r, c in matrices) + sum(vectors.values())
        assert size == layer_at(arch.spec, number).parameters


# -- checkpoints -----------------------------------------------------------------------------------


def everything(source):
    """All tensors of a source by what they are."""
    arch = source.architecture
    made = {"embedding": source.embedding(), "read": source.encoder_embedding()}
    made |= {"head": source.head(), "norm": source.final_norm(), "first": source.encoder_norm()}
    for layer in range(n_layers(arch)):
        for name, shape in matrix_shapes(arch, layer).items():
            for expert in range(shape.stack):
                made[layer, name, expert] = source.matrix(layer, name, expert)
        made |= {(layer, name): source.vector(layer, name) for name in vector_sizes(arch, layer)}
    return made


@pytest.mark.parametrize("tied", [True, False])
def test_every_stored_value_is_found_in_one_file_and_in_shards(tied, tmp_path):
    one = save_switch(tmp_path / "one", tie_word_embeddings=tied)
    many = save_switch(tmp_path / "many", tie_word_embeddings=tied, sharded=True)
    assert len(list(many.glob("*.safetensors"))) > 1
    wanted, got = everything(Checkpoint(one)), everything(Checkpoint(many))
    assert all(torch.equal(got[key], wanted[key]) for key in wanted)
    unique = {t.data_ptr(): t.numel() for t in wanted.values()}
    stored = load_file(one / "model.safetensors")
    unused = 0 if tied else stored["shared.weight"].numel()  # each stack then has its own
    assert sum(unique.values()) + unused == sum(t.numel() for t in stored.values())


def test_by_name(tmp_path):
    folder = save_switch(tmp_path, router_bias=True)
    source, stored = Checkpoint(folder), load_file(folder / "model.safetensors")
    decoder, encoder = "decoder.block.1.layer", "encoder.block.3.layer"
    for layer, name, expert, tensor in (
        (1, "cross_k", 0, f"{decoder}.1.EncDecAttention.k"),
        (1, "down", 5, f"{decoder}.2.mlp.experts.expert_5.wo"),
        (0, "up", 0, "decoder.block.0.layer.2.mlp.wi"),
        (5, "q", 0, f"{encoder}.0.SelfAttention.q"),
        (5, "router", 0, f"{encoder}.1.mlp.router.classifier"),
    ):
        assert torch.equal(source.matrix(layer, name, expert), stored[f"{tensor}.weight"])
    bias = stored["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"]
    assert torch.equal(source.vector(2, "position_bias"), bias.view(-1))
    assert torch.equal(
        source.vector(5, "router_bias"), stored[f"{encoder}.1.mlp.router.classifier.bias"]
    )
    assert source.vector(3, "position_bias") is None
    assert source.vector(2, "cross_norm") is None


def test_a_head_of_its_own_and_one_embedding_for_both_stacks(tmp_path):
    """As T5 1.1 is published: then there is one embedding, `shared`."""
    folder = save_switch(tmp_path, tie_word_embeddings=False)
    stored = load_file(folder / "model.safetensors")
    kept = {name: t for name, t in stored.items() if "embed_tokens" not in name}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    source = Checkpoint(folder)
    assert source.embedding() is not source.head()
    assert torch.equal(source.embedding(), stored["shared.weight"])
    assert torch.equal(source.encoder_embedding(), stored["shared.weight"])


@pytest.mark.parametrize(
    "name",
    [
        "shared.weight",
        "encoder.final_layer_norm.weight",
        "decoder.block.1.layer.1.EncDecAttention.v.weight",
        "encoder.block.1.layer.1.mlp.experts.expert_4.wo.weight",
        "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
    ],
)
def test_a_tensor_that_is_missing_or_of_another_shape(name, tmp_path):
    folder = save_switch(tmp_path)
    stored = load_file(folder / "model.safetensors")
    whole = stored.pop(name)
    save_file(stored, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(BadInput, match=f"tensor {name} is missing"):
        Checkpoint(folder)
    stored[name] = torch.cat([whole, whole])
    save_file(stored, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(BadInput, match=f"{name} has shape .* must be"):
        Checkpoint(folder)


def test_values_of_the_encoder_are_checked_too(tmp_path):
    folder = save_switch(tmp_path)
    stored = load_file(folder / "model.safetensors")
    stored["encoder.block.3.layer.1.mlp.experts.expert_0.wi.weight"][0, 0] = float("nan")
    save_file(stored, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(BadInput, match=r"encoder\.block\.3\..* not finite"):
        check_finite(Checkpoint(folder))

"""The published models: counts, active parameters, sources, names."""

import tomllib
from pathlib import Path

import pytest

from schedules.errors import BadInput
from schedules.hf_families import FAMILIES
from schedules.model_presets import load_model, model_names

NAMES = [
    "dbrx",
    "deepseek-v2-lite",
    "mixtral-8x22b",
    "mixtral-8x7b",
    "opt-175b",
    "opt-30b",
    "opt-6.7b",
    "qwen3-30b-a3b",
    "switch-base-128",
    "switch-base-256",
    "switch-base-64",
    "switch-base-8",
    "switch-large-128",
]
# In billions, as printed where the TOML says: papers, model cards, announcements; the tied
# embeddings of the Switch Transformers count three times there (encoder, decoder, head).
PRINTED = {
    "dbrx": "132",
    "deepseek-v2-lite": "15.7",
    "mixtral-8x22b": "141",
    "mixtral-8x7b": "46.7",
    "opt-175b": "175",
    "opt-30b": "30",
    "opt-6.7b": "6.7",
    "qwen3-30b-a3b": "30.5",
    "switch-base-8": "0.7",
    "switch-base-64": "3.8",
    "switch-base-128": "7.5",
    "switch-base-256": "14.7",
    "switch-large-128": "26.4",
}


def test_the_names():
    assert model_names() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_preset_names_itself_its_family_and_its_sources(name):
    spec = load_model(name)
    assert spec.name == name
    assert spec.family in FAMILIES
    assert "config.json" in spec.source
    assert "arXiv" in spec.source or "mistral.ai" in spec.source or "Databricks" in spec.source


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_the_published_ones(name):
    spec = load_model(name)
    assert spec.parameters == spec.published_parameters


@pytest.mark.parametrize("name", PRINTED)
def test_parameters_round_to_the_printed_ones(name):
    spec, printed = load_model(name), PRINTED[name]
    counted = spec.parameters
    if spec.tied_embeddings and spec.is_encoder_decoder:
        counted += 2 * spec.head_matrix_parameters
    decimals = len(printed.partition(".")[2])
    assert f"{counted / 1e9:.{decimals}f}" == printed


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("mixtral-8x7b", 12.9e9),  # mistral.ai, "Mixtral of experts"
        ("mixtral-8x22b", 39e9),  # mistral.ai, "Cheaper, Better, Faster, Stronger"
        ("qwen3-30b-a3b", 3.3e9),  # model card
        ("dbrx", 36e9),  # Databricks, "Introducing DBRX"
        ("switch-base-8", 0.223e9),  # T5-Base, as many flops: arXiv 2101.03961, section 4.2
    ],
)
def test_active_parameters_are_the_published_ones(name, published):
    assert load_model(name).active_parameters == pytest.approx(published, rel=0.02)


def test_active_parameters_of_deepseek_are_published_without_the_token_embedding():
    """arXiv 2405.04434, appendix B.1: 2.4 B; 2.451e9 without the input embedding, cut not rounded.

    By hand: 27 layers of attention (2048 x 16 x 192 + 2048 x 576 + 512 + 512 x 16 x 256
    + 16 x 128 x 2048) and norms (2 x 2048), one FFN of 3 x 2048 x 10944, 26 MoE layers of 8 experts
    of 3 x 2048 x 1408 and a gate of 64 x 2048, the last norm and the head of 102400 x 2048.
    """
    spec = load_model("deepseek-v2-lite")
    attention = 2048 * 3072 + 2048 * 576 + 512 + 512 * 16 * 256 + 2048 * 2048
    moe = 8 * 3 * 2048 * 1408 + 64 * 2048
    by_hand = 27 * (attention + 4096) + 3 * 2048 * 10944 + 26 * moe + 2048 + 102400 * 2048
    without_embedding = spec.active_parameters - spec.embedding_parameters
    assert without_embedding == by_hand == 2_451_435_008
    assert without_embedding == pytest.approx(2.4e9, rel=0.025)


def test_opt_is_dense_and_all_of_it_is_active():
    spec = load_model("opt-30b")
    assert spec.active_parameters == spec.parameters
    assert not any(layer.is_moe or layer.router_parameters for layer in spec.decoder_layers)
    assert {layer.expert_pool_parameters for layer in spec.decoder_layers} == {
        2 * 7168 * 28672 + 28672 + 7168
    }


@pytest.mark.parametrize("name", NAMES)
def test_values_come_with_comments_on_their_source(name):
    folder = Path(__file__).parents[2] / "schedules" / "presets" / "models"
    text = (folder / f"{name}.toml").read_text(encoding="utf-8")
    assert text.startswith("# Sizes: ")
    assert "# Counted from the transformers 5 implementation of this config" in text
    assert tomllib.loads(text)["dtype"] == ("float32" if "switch" in name else "float16")


def test_bfloat16_models_say_that_they_run_as_float16():
    for name in ("mixtral-8x7b", "mixtral-8x22b", "dbrx", "qwen3-30b-a3b", "deepseek-v2-lite"):
        assert "released in bfloat16, run as float16 on a T4" in load_model(name).source


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mixtral", "no model is named 'mixtral', did you mean 'mixtral-8x7b'"),
        ("Mixtral-8x7B", "no model is named 'Mixtral-8x7B', did you mean 'mixtral-8x7b'"),
        ("zzz", "no model is named 'zzz'; known: dbrx, deepseek-v2-lite"),
        ("", "no model is named ''; known: dbrx"),
        (
            "mistralai/Mixtral-8x7B-v0.1",
            "there is no file or folder 'mistralai/Mixtral-8x7B-v0.1'; give a config.json or a"
            " name, did you mean 'mixtral-8x7b'",
        ),
        ("nowhere.json", "there is no file or folder 'nowhere.json'; give a config.json or a name"),
        ("a\0b", "no model is named 'a\0b'"),
    ],
)
def test_unknown_names_and_files_suggest_known_ones(name, expected):
    with pytest.raises(BadInput) as caught:
        load_model(name)
    assert str(caught.value).startswith(expected)

"""Modifiers: what they say, what they make of a model, and what is said of wrong ones."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedules.errors import BadInput
from schedules.model_presets import load_model
from schedules.modifiers import Modifiers, make_modifiers, parse_modifiers
from schedules.quantisation import Quantisation
from tests.strategies import MODELS

MIXTRAL = load_model("mixtral-8x7b")


@st.composite
def told(draw):
    """Any modifiers that can be asked for, as the command line's text or as plain values."""
    width = st.sampled_from(["int8", "int4"])
    some = {"weights": width, "experts": width, "kv": width}
    values = draw(st.fixed_dictionaries({}, optional=some))
    more = {"group": st.integers(8, 4_096), "fused": st.booleans()} if values else {}
    more |= {
        "keep": st.integers(1, 500),
        "skip": st.floats(0, 1),
        "ssd": st.sampled_from(["serial", "overlapped"]),
    }
    return values | draw(st.fixed_dictionaries({}, optional=more))


# -- what they say ---------------------------------------------------------------------------------


def test_nothing_is_changed_unless_asked():
    assert make_modifiers(None) == make_modifiers({}) == Modifiers()
    assert Modifiers().told() == {}
    assert Modifiers().applied(MIXTRAL) is MIXTRAL


@given(told())
def test_what_is_told_makes_the_same_modifiers(values):
    made = make_modifiers(values)
    assert make_modifiers(made) is made
    assert make_modifiers(made.told()) == made
    assert made.told().items() <= values.items()  # but for what is so anyway


@given(told())
def test_modifiers_survive_the_way_through_text(values):
    words = [f"{key}={value}" for key, value in values.items()]
    assert make_modifiers(parse_modifiers(words)) == make_modifiers(values)


def test_words_may_have_spaces():
    assert parse_modifiers([" experts = int4 ", "skip=0.5"]) == {"experts": "int4", "skip": "0.5"}


# -- what they make of a model ---------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_fewer_bits_on_every_preset(name):
    model = load_model(name)
    changed = make_modifiers({"weights": "int8", "experts": "int4", "group": 128}).applied(model)
    bits = Quantisation(experts=4, dense=8, group=128)
    assert changed == model.model_copy(update={"quantisation": bits})
    assert changed.parameters == model.parameters


def test_weights_are_the_experts_too_unless_these_have_their_own():
    def made(**values):
        return make_modifiers(values).applied(MIXTRAL).quantisation

    assert made(weights="int8") == Quantisation(experts=8, dense=8)
    assert made(weights="int8", experts="int4") == Quantisation(experts=4, dense=8)
    assert made(experts="int4", fused=True) == Quantisation(experts=4, fused=True)
    assert made(kv="int8", group=32) == Quantisation(kv=8, group=32)


def test_a_quantised_cache():
    """Mixtral's 32 layers keep 2048 elements a token, each of 1 + 2 / 64 bytes."""
    changed = make_modifiers({"kv": "int8"}).applied(MIXTRAL)
    assert changed.kv_bytes_per_token == 32 * 2_048 * (1 + 2 / 64)
    assert MIXTRAL.kv_bytes_per_token == 32 * 2_048 * 2


def test_skipping():
    """Mixtral takes 1 + 0.5 experts a token; a dense layer has one FFN, as before."""
    changed = make_modifiers({"skip": 0.5}).applied(MIXTRAL)
    assert changed.skip_below == 0.5
    assert {layer.choices for layer in changed.decoder_layers} == {1.5}
    deepseek = make_modifiers({"skip": 0.5}).applied(load_model("deepseek-v2-lite"))
    dense, moe, *_ = deepseek.decoder_layers
    assert (dense.choices, moe.choices) == (1, 2 * (1 - 0.5**6))


def test_pruning():
    """Two of Mixtral's eight experts go, in each of 32 layers, and two rows of each router."""
    changed = make_modifiers({"keep": 6}).applied(MIXTRAL)
    assert (changed.n_experts, changed.top_k, changed.name) == (6, 2, MIXTRAL.name)
    gone = 2 * (3 * 4_096 * 14_336 + 4_096) * 32
    assert changed.parameters == MIXTRAL.parameters - gone
    assert changed.published_parameters is None
    assert changed.source == f"{MIXTRAL.source}; 6 of 8 experts kept"


@pytest.mark.parametrize("name", ["mixtral-8x7b", "dbrx", "qwen3-30b-a3b", "switch-base-8"])
def test_from_as_many_experts_as_a_token_takes_to_all(name):
    model = load_model(name)
    least = max(2, model.top_k)  # a single one needs no router
    for keep in (least, model.n_experts):
        changed = make_modifiers({"keep": keep}).applied(model)
        assert {la.n_experts for la in changed.decoder_layers if la.is_moe} == {keep}
    for keep in (least - 1, model.n_experts + 1):
        said = f"which a token takes {model.top_k}; keep {least} to {model.n_experts}$"
        with pytest.raises(BadInput, match=said):
            make_modifiers({"keep": keep}).applied(model)


# -- what is wrong ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"exprts": "int4"}, "unknown key 'exprts', did you mean 'experts'?"),
        ({"zzz": 1}, "unknown key 'zzz'; known: experts, fused, group, keep, kv, skip, ssd, "),
        ({"experts": "int3"}, "experts: 'int3' is neither int8 nor int4"),
        ({"weights": "fp8"}, "weights: 'fp8' is neither int8 nor int4"),
        ({"kv": ""}, "kv: '' is neither int8 nor int4"),
        ({"kv": 2}, "kv: 2 is neither int8 nor int4"),
        ({"experts": 4.0}, "experts: 4.0 is neither int8 nor int4"),
        ({"experts": [4]}, "experts: [4] is neither int8 nor int4"),
        ({"experts": "int4", "group": 4}, "group is 4; it should be greater than or equal to 8"),
        ({"kv": "int4", "group": 5000}, "group is 5000; it should be less than or equal to 4096"),
        ({"kv": "int4", "group": 9.5}, "group is 9.5; it should be a valid integer"),
        ({"kv": "int4", "fused": "maybe"}, "fused is 'maybe'; it should be a valid boolean"),
        ({"group": 64}, "group is given, but nothing is quantised"),
        ({"fused": True, "skip": 0.5}, "fused is given, but nothing is quantised"),
        ({"keep": 0}, "keep is 0; it should be greater than or equal to 1"),
        ({"keep": "some"}, "keep is 'some'; it should be a valid integer"),
        ({"skip": -0.1}, "skip is -0.1; it should be greater than or equal to 0"),
        ({"skip": 1.1}, "skip is 1.1; it should be less than or equal to 1"),
        ({"skip": "nan"}, "skip is 'nan'; it should be a finite number"),
        ({"skip": "half"}, "skip is 'half'; it should be a valid number"),
        ({"ssd": "fast"}, "ssd is 'fast'; it should be 'serial' or 'overlapped'"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_right(values, said):
    with pytest.raises(BadInput) as error:
        make_modifiers(values)
    assert str(error.value).startswith(f"modifiers: {said}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["switch-base-8", "opt-6.7b"])
def test_who_takes_one_expert_skips_none(name):
    with pytest.raises(BadInput) as error:
        make_modifiers({"skip": 0.25}).applied(load_model(name))
    said = f"modifier skip = 0.25: a token of '{name}' takes one expert, and the first is never"
    assert str(error.value).startswith(said)


def test_a_dense_model_has_no_experts_to_keep():
    with pytest.raises(BadInput, match=r"^modifier keep = 1: 'opt-6.7b' has no experts; leave"):
        make_modifiers({"keep": 1}).applied(load_model("opt-6.7b"))


@pytest.mark.parametrize("word", ["experts", "experts=", "=int4", "", "="])
def test_words_that_are_no_assignment(word):
    with pytest.raises(BadInput, match=f"^modifier '{word}' is not of the form KEY=VALUE, as in"):
        parse_modifiers([word])


def test_a_modifier_that_is_given_twice():
    with pytest.raises(BadInput, match=r"^modifier 'skip' is given twice$"):
        parse_modifiers(["skip=0.5", "keep=6", "skip=0.5"])

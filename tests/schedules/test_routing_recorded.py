"""Recorded routing: the same workload answers as it ran, another one with whole sequences."""

import os

import numpy as np
import pandas as pd
import pytest

from schedules.errors import BadInput
from schedules.routing import Routing
from schedules.routing_recorded import Recording, recording
from schedules.routing_table import write_routing

LENGTHS = (3, 1, 2)


def rows(lengths=LENGTHS, steps=2, layers=(0, 2), top_k=2, batch=0):
    """Token t of sequence r in layer l of step s takes 10 r + position and 50 + l."""
    found = []
    for layer in layers:
        for r, length in enumerate(lengths):
            for position in range(length + steps):
                step = max(0, position - length + 1)
                found.append(
                    (batch, step, layer, r, position, 10 * r + position, 50 + layer)[: 5 + top_k]
                )
    names = ["batch", "step", "layer", "request", "position", "expert_0", "expert_1"]
    return pd.DataFrame(found, columns=names[: 5 + top_k])


def array(*values):
    return np.array(values)


def test_tokens_by_place():
    """A prompt's by position, a decode step's by step."""
    found = Recording(rows(), "it")
    prompt = found.ids(2, True, array(0, 2), array(1, 0), array(0, 0))
    assert prompt.tolist() == [[1, 52], [20, 52]]
    step = found.ids(0, False, array(0, 1, 2), array(99, 99, 99), array(0, 1, 0))
    assert step.tolist() == [[3, 50], [12, 50], [22, 50]]


def test_the_order_of_the_rows_does_not_matter():
    mixed = Recording(rows().sample(frac=1, random_state=1), "it")
    for prompts in (True, False):
        assert np.array_equal(
            mixed.of(prompts).experts, Recording(rows(), "it").of(prompts).experts
        )


def test_what_is_longer_than_the_record_starts_again():
    found = Recording(rows(), "it")
    prompt = found.ids(0, True, array(2, 2, 2, 2), np.arange(4), np.zeros(4, dtype=int))
    assert prompt[:, 0].tolist() == [20, 21, 20, 21]
    decode = found.ids(0, False, array(1, 1, 1), array(0, 0, 0), np.arange(3))
    assert decode[:, 0].tolist() == [11, 12, 11]


def test_without_decode_steps_the_prompts_stand_in_for_them():
    found = Recording(rows(steps=0), "it")
    assert found.decode is None
    decode = found.ids(0, False, array(0, 0), array(1, 4), array(0, 1))
    assert decode[:, 0].tolist() == [1, 1]  # by position, from the start again


def test_without_prompts_the_decode_steps_stand_in_for_them():
    frame = rows()
    found = Recording(frame[frame["step"] > 0], "it")
    assert found.ids(0, True, array(0, 0), array(0, 1), array(0, 0))[:, 0].tolist() == [3, 4]


def test_the_same_prompts_are_those_of_the_record():
    two = pd.concat([rows(), rows((5, 5), batch=1)])
    found = Recording(two, "it")
    assert found.picks(4, LENGTHS).tolist() == [0, 1, 2]
    assert found.picks(4, (*LENGTHS, 5, 5)).tolist() == [0, 1, 2, 3, 4]
    assert found.ids(0, True, array(4), array(2), array(0))[0, 0] == 12  # of request 1 of batch 1


def test_other_prompts_take_whole_sequences_each_as_often():
    found = Recording(rows(), "it")
    drawn = found.picks(4, (7,) * 9)
    assert np.bincount(drawn).tolist() == [3, 3, 3]
    assert np.array_equal(found.picks(4, (7,) * 5), drawn[:5])
    assert any(not np.array_equal(found.picks(seed, (7,) * 9), drawn) for seed in range(4))


def test_sequences_that_have_no_decode_steps_are_not_drawn():
    frame = rows()
    found = Recording(frame[(frame["request"] != 1) | (frame["step"] == 0)], "it")
    assert set(found.picks(0, LENGTHS).tolist()) == {0, 2}
    nothing = frame[(frame["request"] == 1) == (frame["step"] == 0)]
    with pytest.raises(BadInput, match="has no sequence with a prompt and decode steps"):
        Recording(nothing, "it").picks(0, (4,))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda frame: frame[:-1],  # layer 2 lacks a token
        lambda frame: frame.drop(index=5),
        lambda frame: pd.concat([frame, frame[:1]]),
        lambda frame: pd.concat([frame, frame]),
        lambda frame: frame.assign(position=frame["position"] + frame["layer"]),
    ],
)
def test_layers_with_other_tokens(spoil):
    with pytest.raises(
        BadInput, match="'it': every token of every layer needs one row; layers 0, 2"
    ):
        Recording(spoil(rows()), "it")


@pytest.mark.parametrize(
    ("n_experts", "top_k", "complaint"),
    [
        (64, 1, "'it' has 2 experts per token; the model takes 1"),
        (50, 2, "'it' has expert 52; those of the model are 0 to 49"),
        (128, 2, "'it' is of a model with 64 experts in a layer; this one has 128"),
    ],
)
def test_other_models(n_experts, top_k, complaint):
    found = Recording(rows(), "it", 64 if n_experts == 128 else None)
    with pytest.raises(BadInput, match=complaint):
        found.check(n_experts, top_k)
    Recording(rows(), "it", 64).check(64, 2)


def test_layers_that_were_not_recorded():
    found = Recording(rows(), "it")
    with pytest.raises(BadInput, match="'it' lacks layer 1, which the model has; it has 0, 2"):
        found.ids(1, True, array(0), array(0), array(0))


def test_shares_by_hand():
    """Decode: of six tokens three pairs; expert 50 or 52 in every one."""
    found = Recording(rows(), "it")
    share = found.shares(64, 2, "decoder", 0)[0]
    assert share[50] == 1
    assert share[[3, 4, 11, 12, 22, 23]].tolist() == pytest.approx([1 / 6] * 6)
    prompts = found.shares(64, 2, "encoder", None)
    assert prompts.shape == (2, 64)
    assert prompts[1, [0, 1, 2, 10, 20, 21, 52]].tolist() == pytest.approx([1 / 6] * 6 + [1])


# -- files -----------------------------------------------------------------------------------------


def test_a_file_is_read_again_when_it_changes(tmp_path):
    path = tmp_path / "r.parquet"
    write_routing(rows(), path, 64)
    first = recording(str(path))
    assert recording(str(path)) is first
    assert first.n_experts == 64
    write_routing(rows((4,)), path, 64)
    os.utime(path, ns=(1, 1))
    assert recording(str(path)).of(True).lengths.tolist() == [4]


def test_a_file_of_another_hash(tmp_path):
    write_routing(rows(), tmp_path / "r.parquet", 64)
    with pytest.raises(BadInput, match="not the recorded routing that was asked for"):
        recording(str(tmp_path / "r.parquet"), "0" * 64)


def test_files_that_are_none(tmp_path):
    with pytest.raises(BadInput, match=r"'.*none.parquet' with recorded routing does not exist"):
        recording(str(tmp_path / "none.parquet"))
    (tmp_path / "text.parquet").write_text("x")
    with pytest.raises(BadInput, match=r"text.parquet' cannot be read as Parquet"):
        recording(str(tmp_path / "text.parquet"))


def test_without_a_workload(tmp_path):
    """Prompts are whole recorded ones, decode steps those of as many sequences."""
    write_routing(rows((4, 4, 4)), tmp_path / "r.parquet", 64)
    routing = Routing(kind="recorded", path=str(tmp_path / "r.parquet"))
    prompt = routing.expert_ids(4, 64, 2, 2, 0)
    assert np.diff(prompt[:, 0]).tolist() == [1, 1, 1]
    step = routing.expert_ids(3, 64, 2, 0, 1)
    assert sorted(step[:, 0].tolist()) == [4, 14, 24]
    with pytest.raises(BadInput, match="is of a model with 64 experts"):
        routing.expert_ids(3, 8, 2, 0, 1)

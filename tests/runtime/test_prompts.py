"""Prompts: from files and drawn; every mistake names file, line and value."""

import json
from pathlib import Path

import numpy as np
import pytest

from runtime.prompts import Prompts, draw_prompts, read_prompts
from runtime.tokenizer import NoTokenizer
from schedules.errors import BadInput
from schedules.lengths import Listed
from schedules.workload import Workload
from schedules.workload_presets import load_workload

NONE = NoTokenizer("there is no tokenizer")


class Letters:
    """A tokenizer of one token per letter."""

    def encode(self, text: str) -> list[int]:
        return [ord(letter) - ord("a") for letter in text]

    def decode(self, token_ids):
        return "".join(chr(ord("a") + i) for i in token_ids)


def write(folder: Path, *lines: str) -> Path:
    path = folder / "p.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_token_ids_and_text_in_the_order_of_the_file(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        '{"prompt_token_ids": [3, 0, 9]}',
        "",
        '{"prompt": "abc", "topic": "letters"}',
        "  ",
        '{"prompt_token_ids": [3, 0, 9]}',  # the same again
    )
    prompts = read_prompts(path, 10, Letters())
    assert prompts.token_ids == ((3, 0, 9), (0, 1, 2), (3, 0, 9))
    assert prompts.lengths == (3, 3, 3)
    assert prompts.name == "p.jsonl"
    assert prompts.places == (f"{path}, line 1", f"{path}, line 3", f"{path}, line 5")
    assert len(prompts) == 3


def test_line_separators_inside_of_a_text_do_not_end_the_line(tmp_path: Path) -> None:
    class Count(Letters):
        def encode(self, text: str) -> list[int]:
            return [len(text)]

    path = write(tmp_path, '{"prompt": "a\u2028b\u0085c"}', '{"prompt": "d"}')
    assert read_prompts(path, 10, Count()).token_ids == ((5,), (1,))


def test_windows_line_ends_and_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"prompt_token_ids": [1]}\r\n{"prompt_token_ids": [2]}\r\n')
    assert read_prompts(path, 3, NONE).token_ids == ((1,), (2,))


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"prompt_token_ids": [1, 10]}', "token 1 of the prompt is 10; .* from 0 to 9"),
        ('{"prompt_token_ids": [-1]}', "token 0 of the prompt is -1; .* from 0 to 9"),
        ('{"prompt_token_ids": [1.0]}', "token 0 of the prompt is 1.0; it must be a whole number"),
        ('{"prompt_token_ids": [true]}', "token 0 of the prompt is True; it must be a whole"),
        ('{"prompt_token_ids": ["1"]}', "token 0 of the prompt is '1'; it must be a whole number"),
        ('{"prompt_token_ids": []}', r"prompt_token_ids is \[\]; it must be a list .* not empty"),
        ('{"prompt_token_ids": 7}', "prompt_token_ids is 7; it must be a list of token ids"),
        ('{"prompt": ""}', "prompt is '', which has no tokens; it must have at least one"),
        ('{"prompt": 7}', "prompt is 7; it must be text"),
        ('{"prompt": "z"}', "token 0 of the prompt is 25; .* from 0 to 9"),
        ('{"prompt": "a", "prompt_token_ids": [1]}', "the object has both of prompt .*; give one"),
        ('{"promt": "a"}', "the object has neither of prompt .*; give one"),
        ('"text"', "'text' is not an object with prompt .* or prompt_token_ids"),
        ("[1, 2]", r"\[1, 2\] is not an object"),
        ('{"prompt": "a"', "not JSON"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, line: str, says: str) -> None:
    path = write(tmp_path, '{"prompt_token_ids": [0]}', line)
    with pytest.raises(BadInput, match=f"^{path}, line 2: .*{says}"):
        read_prompts(path, 10, Letters())


def test_text_needs_a_tokenizer(tmp_path: Path) -> None:
    path = write(tmp_path, '{"prompt": "a"}')
    with pytest.raises(BadInput, match="line 1: there is no tokenizer; give prompt_token_ids"):
        read_prompts(path, 10, NONE)


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_an_empty_file(tmp_path: Path, text: str) -> None:
    with pytest.raises(BadInput, match="holds no prompts; it must hold at least one"):
        read_prompts(write(tmp_path, text), 10, NONE)


def test_a_missing_file_and_one_that_is_not_text(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="there is no such file"):
        read_prompts(tmp_path / "none.jsonl", 10, NONE)
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInput, match="cannot be read as UTF-8 text"):
        read_prompts(tmp_path / "binary.jsonl", 10, NONE)


def test_the_context_must_hold_prompt_and_generation(tmp_path: Path) -> None:
    lines = [json.dumps({"prompt_token_ids": [1] * n}) for n in (3, 9, 12)]
    path = write(tmp_path, *lines)
    prompts = read_prompts(path, 10, NONE)
    prompts.check_context(gen_len=4, max_context=16, model="small")
    with pytest.raises(BadInput) as error:
        prompts.check_context(gen_len=5, max_context=16, model="small")
    assert str(error.value) == (
        f"{path}, line 3: the prompt has 12 tokens and 5 are to be generated, 17 positions; model "
        "'small' has 16"
    )


@pytest.mark.parametrize("gen_len", [0, -3])
def test_the_generation_length_is_checked(gen_len: int) -> None:
    with pytest.raises(BadInput, match=r"gen_len is .*; it must be a whole number of at least 1"):
        Prompts(((1,),), "p", ("p",)).check_context(gen_len, 16, "small")


# -- drawn prompts ---------------------------------------------------------------------------------


def quiz(padded: bool) -> Workload:
    lengths = Listed(lengths=(4, 7, 2))
    return Workload(name="quiz", prompt_lengths=lengths, gen_len=2, padded=padded, source="-")


def test_drawn_prompts_have_the_lengths_that_a_schedule_counts() -> None:
    assert draw_prompts(quiz(padded=False), 5, 50).lengths == (4, 7, 2, 4, 7)
    assert draw_prompts(quiz(padded=True), 5, 50).lengths == (7,) * 5
    workload = load_workload("mtbench")
    assert draw_prompts(workload, 20, 50).lengths == workload.lengths(20)


def test_drawn_prompts_follow_from_the_seed_and_cover_the_vocabulary() -> None:
    first, again = (draw_prompts(load_workload("fixed-300"), 4, 7, seed=3) for _ in range(2))
    other = draw_prompts(load_workload("fixed-300"), 4, 7, seed=4)
    assert first == again
    assert len({*first.token_ids, *other.token_ids}) == 8
    counts = np.bincount([i for ids in first.token_ids for i in ids])
    assert len(counts) == 7
    assert counts.min() > 1200 / 7 / 2


def test_a_drawn_prompt_does_not_depend_on_how_many_there_are() -> None:
    few, many = (draw_prompts(quiz(padded=True), n, 50, seed=1) for n in (2, 9))
    assert many.token_ids[:2] == few.token_ids


def test_drawn_prompts_are_named_by_number_and_workload() -> None:
    with pytest.raises(BadInput, match=r"^prompt 2 of workload 'quiz': the prompt has 7 tokens"):
        draw_prompts(quiz(padded=False), 3, 50).check_context(2, 8, "small")
    with pytest.raises(BadInput, match="the number of requests is 0"):
        draw_prompts(quiz(padded=False), 0, 50)


# -- digest ----------------------------------------------------------------------------------------


def digest(*token_ids: tuple[int, ...]) -> str:
    return Prompts(token_ids, "any", ("",) * len(token_ids)).digest


def test_the_digest_tells_prompts_apart_and_not_their_file() -> None:
    different = [
        digest((1, 2), (3,)),
        digest((1,), (2, 3)),
        digest((1, 2, 3)),
        digest((3,), (1, 2)),
        digest((1, 2)),
        digest((2, 1, 2, 1, 3)),  # what the lengths and ids of the first would be as one prompt
    ]
    assert len(set(different)) == len(different)
    assert Prompts(((1, 2), (3,)), "other.jsonl", ("a", "b")).digest == different[0]

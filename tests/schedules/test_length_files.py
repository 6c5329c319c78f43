"""Files of prompt lengths: the accepted forms, and one sentence for every other."""

import re

import pytest

from schedules.errors import BadInput
from schedules.length_files import read_lengths


@pytest.fixture
def write(tmp_path):
    def to_file(name: str, text: str | bytes):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return to_file


@pytest.mark.parametrize(
    "text",
    [
        "77\n418\n3\n",
        "77\r\n418\r\n3",
        "tokens\n77\n418\n3\n",
        "how_long\n77\n\n 418 \n3\n\n",
        "\ufeffprompt_len\n77\n418\n3\n",
        'id,prompt_len,tokens\n1,77,0\n"2, b",418,0\n3,3,0\n',
        "name, Length\nq1, 77\nq2, 418\nq3, +3\n",
    ],
)
def test_csv(write, text):
    assert read_lengths(write("a.csv", text)).lengths == (77, 418, 3)


@pytest.mark.parametrize(
    "text",
    [
        "2\n3\n1",
        '{"prompt_len": 2}\n\n{"length": 3, "id": "x"}\n{"tokens": 1}\n',
        '{"prompt_token_ids": [11, 12]}\n{"prompt_token_ids": [5, 6, 7]}\n1\n',
    ],
)
def test_jsonl(write, text):
    assert read_lengths(write("a.JSONL", text)).lengths == (2, 3, 1)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "", "holds no prompt lengths"),
        ("a.csv", "tokens\n", "holds no prompt lengths"),
        ("a.jsonl", "\n\n", "holds no prompt lengths"),
        ("a.csv", "tokens\n7\n0\n", "line 3: the prompt length is 0; it must be a whole number"),
        ("a.csv", "7\n-2\n", "line 2: the prompt length is -2;"),
        ("a.csv", "7\n7.5\n", "line 2: the prompt length is '7.5';"),
        ("a.csv", "nan\n7\n", "line 1: the prompt length is 'nan';"),
        ("a.csv", "12a\n7\n", "line 1: the prompt length is '12a';"),
        ("a.csv", "7\n1_000\n", "line 2: the prompt length is '1_000';"),
        ("a.csv", "id,tokens\n1,\n", "line 2: the prompt length is '';"),
        ("a.csv", "id,tokens\n1,7\n2\n", "line 3: the number of cells is 1; it must be 2"),
        ("a.csv", "7\n8,9\n", "line 2: the number of cells is 2; it must be 1"),
        ("a.csv", "id,size\n1,7\n", "line 1: no column is named prompt_len or length or tokens"),
        ("a.csv", "7\n" + "8" * 200_000, "line 2: not CSV (field larger"),
        ("a.csv", "9999999999\n", "it must be at most 2147483647"),
        ("a.jsonl", "7\n{oops\n", "line 2: not JSON"),
        ("a.jsonl", "[" * 100_000, "line 1: not JSON"),
        ("a.jsonl", "9" * 5000, "line 1: not JSON"),
        ("a.jsonl", "7\nNaN\n", "line 2: the prompt length is nan;"),
        ("a.jsonl", "7.0\n", "line 1: the prompt length is 7.0;"),
        ("a.jsonl", "true\n", "line 1: the prompt length is True;"),
        ("a.jsonl", "[1, 2, 3]\n", "line 1: the prompt length is [1, 2, 3];"),
        ("a.jsonl", '{"tokens": "7"}\n', "line 1: the prompt length is '7';"),
        ("a.jsonl", '{"prompt_token_ids": []}\n', "line 1: the prompt length is 0;"),
        ("a.jsonl", '{"prompt_token_ids": 7}\n', "none of prompt_len, length, tokens, prompt_tok"),
        ("a.jsonl", '{"text": "hello"}\n', "line 1: the object has none of prompt_len"),
        ("a.csv", b"\xff\xfe7\n", "cannot be read as UTF-8 text"),
        ("a.txt", "7\n", "must end in .csv or .jsonl"),
    ],
)
def test_errors_name_the_file_the_line_and_the_value(write, name, text, message):
    path = write(name, text)
    with pytest.raises(BadInput, match=re.escape(message)) as caught:
        read_lengths(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(BadInput, match=r"gone\.csv: there is no such file"):
        read_lengths(tmp_path / "gone.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(BadInput, match=r"folder\.csv cannot be read"):
        read_lengths(tmp_path / "folder.csv")

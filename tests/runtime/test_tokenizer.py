"""The tokenizer of a folder, without the network."""

import json
from pathlib import Path

import pytest

from runtime.tokenizer import NoTokenizer, load_tokenizer
from schedules.errors import BadInput


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint folder with a tokenizer of four words."""
    tokenizers = pytest.importorskip("tokenizers")
    vocabulary = {"<unk>": 0, "<s>": 1, "one": 2, "two": 3}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.post_processor = tokenizers.processors.TemplateProcessing("<s> $A", None, [("<s>", 1)])
    made.save(str(tmp_path / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    return tmp_path


def test_text_to_ids_and_back(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    tokenizer = load_tokenizer(folder)
    assert tokenizer.encode("two one three") == [1, 3, 2, 0]
    assert tokenizer.decode((1, 3, 2)) == "two one"


def test_random_weights_have_none() -> None:
    tokenizer = load_tokenizer(None)
    assert tokenizer.decode([1, 2]) is None
    with pytest.raises(BadInput, match=r"^random weights have no tokenizer; give prompt_token_ids"):
        tokenizer.encode("one")


def test_a_folder_without_one(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    tokenizer = load_tokenizer(tmp_path)
    assert isinstance(tokenizer, NoTokenizer)
    with pytest.raises(BadInput, match=f"^the folder '{tmp_path}' holds no tokenizer; give"):
        tokenizer.encode("one")


def test_one_that_cannot_be_loaded_is_no_obstacle_until_text_is_given(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{broken")
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.decode([1]) is None
    with pytest.raises(BadInput, match=f"^the tokenizer in '{tmp_path}' cannot be loaded: .+; giv"):
        tokenizer.encode("one")

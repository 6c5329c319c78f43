"""Progress: on standard error, and only where someone looks."""

import re

import pytest

from runtime.progress import Silent, progress_bar


def use(wanted: bool | None) -> object:
    with progress_bar(100, wanted) as meter:
        meter.phase("batch 1/2: decode")
        for _ in range(3):
            meter.advance(20)
        meter.skip(30)
        return meter


@pytest.mark.parametrize("wanted", [None, False])
def test_nothing_is_shown_to_a_file(capsys: pytest.CaptureFixture[str], wanted) -> None:
    assert isinstance(use(wanted), Silent)
    assert capsys.readouterr() == ("", "")


def test_what_is_asked_for_is_shown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    use(True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "batch 1/2: decode" in err
    assert "90/100 tokens" in err
    assert re.search(r"[0-9.e+]+ tokens/s", err)


def test_a_terminal_shows_it_unasked(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes it for a terminal
    monkeypatch.setenv("COLUMNS", "200")
    assert not isinstance(use(None), Silent)
    assert "tokens" in capsys.readouterr().err

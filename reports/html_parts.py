"""Parts of pages: tables of text and notes, with everything escaped."""

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

LONG = "source"
"""A last column of this name is long text."""


def table(headers: Sequence[str], rows: Iterable[Sequence[str]], words: int) -> str:
    """A table whose first `words` columns are text and the others numbers.

    >>> table(("link", "rate"), [("h2d", "4")], 1)[:60]
    '<table><thead><tr><th class="text">Link</th><th class="">Rat'
    """
    kinds = ["text"] * words + [""] * (len(headers) - words)
    if headers[-1] == LONG:
        kinds[-1] = "text long"
    head = _cells("th", kinds, [header[:1].upper() + header[1:] for header in headers])
    body = "".join(_cells("td", kinds, row) for row in rows)
    return f"<table><thead>{head}</thead><tbody>{body}</tbody></table>"


def _cells(tag: str, kinds: Sequence[str], texts: Sequence[str]) -> str:
    inner = "".join(
        f'<{tag} class="{kind}">{html.escape(text)}</{tag}>'
        for kind, text in zip(kinds, texts, strict=True)
    )
    return f"<tr>{inner}</tr>"


def note(text: str) -> str:
    """A paragraph in small print."""
    return f"<p class='note'>{html.escape(text)}</p>"


def with_short_origin(run: Mapping[str, Any]) -> dict[str, Any]:
    """A run without what of its provenance would fill a page: lengths of prompts, widths."""
    origin = run["provenance"]
    presets = {
        key: value
        for key, value in origin.get("presets", {}).items()
        if key not in ("prompt_lengths", "model_spec")
    }
    kept = {key: origin[key] for key in ("version", "seed", "command", "date") if key in origin}
    return dict(run) | {"provenance": kept | {"presets": presets}}

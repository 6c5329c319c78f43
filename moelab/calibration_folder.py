"""The files of a calibration: the preset, and the raw data beside it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reports.files import write_text
from schedules.errors import BadInput


@dataclass(frozen=True)
class CalibrationFiles:
    """Where a calibration lies; `preset` is its TOML file."""

    preset: Path

    @property
    def name(self) -> str:
        """Of the machine, as commands know it."""
        return self.preset.stem

    @property
    def points(self) -> Path:
        """Micro-benchmarks."""
        return self._beside("points.jsonl")

    @property
    def operations(self) -> Path:
        """Timed operations of small models."""
        return self._beside("operations.jsonl")

    @property
    def facts(self) -> Path:
        """The machine, versions, date and command."""
        return self._beside("facts.json")

    @property
    def check(self) -> Path:
        """What held-out runs said."""
        return self._beside("check.json")

    def clear(self) -> None:
        """Remove the raw data: everything is measured anew."""
        for path in (self.points, self.operations, self.facts):
            path.unlink(missing_ok=True)

    def begin(self, facts: Mapping[str, Any]) -> Mapping[str, Any]:
        """The facts of the calibration that is under way: those on file, or else these.

        Raises `BadInput` when the file is of another device or other options.
        """
        if not self.facts.exists():
            write_text(self.facts, json.dumps(facts, indent=2) + "\n")
            return facts
        try:
            before = json.loads(self.facts.read_text(encoding="utf-8"))
            same = all(before[key] == facts[key] for key in ("device", "options"))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BadInput(
                f"'{self.facts}' cannot be read ({error}); --again begins anew"
            ) from None
        if not same:
            raise BadInput(
                f"'{self.facts}' is of a calibration with another device or other options; give "
                "the same ones to go on with it, another --out, or --again to begin anew"
            )
        return dict(before)

    def _beside(self, ending: str) -> Path:
        return self.preset.with_name(f"{self.name}.{ending}")

"""Operations that were timed, a line for each run: a calibration that stops can go on.

A last line that is torn (the writer was killed) is dropped.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from schedules.errors import BadInput, MoelabError
from schedules.sample import Sample


class TrialsFile:
    """The runs of one JSONL file, which need not exist yet.

    Raises `BadInput` when a line but the last is none, or the file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.trials: dict[str, list[Sample]] = {}
        try:
            data = path.read_bytes() if path.exists() else b""
        except OSError as error:
            raise BadInput(f"cannot read '{path}': {error.strerror}") from None
        self._whole_bytes = self._read(data)

    def add(self, name: str, samples: Sequence[Sample]) -> None:
        """Append a run; it is in the file when this returns.

        Raises `MoelabError` when the file cannot be written.
        """
        line = json.dumps({"run": name, "samples": [sample.to_dict() for sample in samples]})
        data = (line + "\n").encode()
        try:
            with self.path.open("ab") as file:
                file.truncate(self._whole_bytes)
                file.write(data)
        except OSError as error:
            raise MoelabError(f"cannot write '{self.path}': {error.strerror}") from None
        self._whole_bytes += len(data)
        self.trials[name] = list(samples)

    def samples(self) -> list[Sample]:
        """Of all runs."""
        return [sample for each in self.trials.values() for sample in each]

    def _read(self, data: bytes) -> int:
        lines, whole = data.splitlines(keepends=True), 0
        for number, line in enumerate(lines, 1):
            try:
                found = json.loads(line)
                self.trials[str(found["run"])] = [Sample.of(one) for one in found["samples"]]
            except (ValueError, KeyError, TypeError, BadInput) as error:
                if number == len(lines):
                    break
                raise BadInput(
                    f"line {number} of '{self.path}' is no timed run ({error}); remove the line, "
                    "or the file to measure anew"
                ) from None
            whole += len(line)
        return whole

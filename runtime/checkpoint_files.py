"""The safetensors files of a Hugging Face folder, memory-mapped, as one table of tensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from schedules.errors import BadInput
from schedules.validated import shown

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
FLOATS = {"F16": "float16", "BF16": "bfloat16", "F32": "float32"}


class TensorFiles:
    """All tensors of a folder by name; the files stay mapped as long as any tensor is alive.

    `model.safetensors` is read if it is there, else the shards that `model.safetensors.index.json`
    lists. Raises `BadInput` (file, what is wrong) for a folder without them, an index that is
    broken, and a file that is missing, truncated or no safetensors file.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[str, Any] = {}
        self._where: dict[str, str] = {}
        if (folder / SINGLE).is_file():
            names = self._open(SINGLE).keys()
            self._where = dict.fromkeys(names, SINGLE)
        elif (folder / INDEX).is_file():
            self._where = self._read_index()
        else:
            raise BadInput(_nothing(folder))

    def __contains__(self, tensor: str) -> bool:
        return tensor in self._where

    def path(self, tensor: str) -> Path:
        """The file that holds a tensor."""
        return self.folder / self._where[tensor]

    def shape(self, tensor: str) -> tuple[int, ...]:
        """Shape of a tensor, from the file's header."""
        return tuple(self._header(tensor).get_shape())

    def dtype(self, tensor: str) -> str:
        """Dtype of a tensor as torch calls it; raises `BadInput` for what is not a plain float."""
        stored = str(self._header(tensor).get_dtype())
        if stored not in FLOATS:
            raise BadInput(
                f"{self.path(tensor)}: {tensor} is stored as {stored}; weights must be F16, BF16 or"
                " F32, not quantised"
            )
        return FLOATS[stored]

    def get(self, tensor: str) -> Tensor:
        """A tensor in the mapped memory of its file: no byte is read before it is used."""
        file = self._files[self._where[tensor]]
        try:
            return file.get_tensor(tensor)
        except (SafetensorError, OSError, ValueError) as error:
            raise BadInput(f"{self.path(tensor)}: {tensor} cannot be read ({error})") from None

    def _header(self, tensor: str) -> Any:
        return self._files[self._where[tensor]].get_slice(tensor)

    def _open(self, name: str) -> Any:
        path = self.folder / name
        if name not in self._files:
            try:
                self._files[name] = safe_open(path, framework="pt", device="cpu")
            except (SafetensorError, OSError, ValueError) as error:
                raise BadInput(
                    f"{path} is truncated, or no safetensors file ({error}); download it again"
                ) from None
        return self._files[name]

    def _read_index(self) -> dict[str, str]:
        """Tensor -> file; every file is there and has the tensors that the index says."""
        path = self.folder / INDEX
        where = _weight_map(path)
        for name in sorted(set(where.values())):
            if Path(name).name != name or not (self.folder / name).is_file():
                raise BadInput(f"{path}: it lists {shown(name)}, which is not in this folder")
            found = set(self._open(name).keys())
            for tensor in (t for t, file in where.items() if file == name):
                if tensor not in found:
                    raise BadInput(f"{path}: it places {tensor} in {name}, which does not have it")
        return where


def _weight_map(path: Path) -> dict[str, str]:
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(f"{path} is not JSON ({error}); download it again") from None
    where = index.get("weight_map") if isinstance(index, Mapping) else None
    if not isinstance(where, dict) or not where:
        raise BadInput(f"{path}: weight_map is missing; it must name the file of every tensor")
    for tensor, file in where.items():
        if not isinstance(file, str):
            raise BadInput(f"{path}: the file of {tensor} is {shown(file)}; it must be a name")
    return where


def _nothing(folder: Path) -> str:
    """What to say of a folder without safetensors."""
    wanted = f"it must hold {SINGLE}, or {INDEX} and its shards"
    others = sorted(
        p.name for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pth", ".gguf")
    )
    if others:
        return f"{folder} has its weights in {others[0]}; {wanted}"
    return f"{folder} has no weights; {wanted}"

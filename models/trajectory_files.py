"""Trajectories on disk: written a partition at a time, read memory-mapped, so that a log may be larger than memory.

A folder of plain ``.npy`` files, one a field, which any numpy reads, and the rewards' names as JSON; no pickle.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from models.steps import Bools
from models.trajectories import Trajectories

NAMES: Final = "reward_names.json"
FIELDS: Final = ("states", "actions", "eligible", "rewards", "times_ms")


class TrajectoryWriter:
    """Writes ``folder``, partition by partition; a reader meets all of it or nothing.

    Use it as a context manager: on a clean exit the folder takes its place (an earlier one is replaced), on an error
    nothing is left. Memory is that of one partition.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        self._staging = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
        self._files: dict[str, _GrowingArray] = {}
        self._starts = [np.zeros(1, np.int64)]
        self._ended: list[Bools] = []
        self._reward_names: tuple[str, ...] = ()

    def append(self, partition: Trajectories) -> None:
        """Write the members of one partition behind those before. Raises ValueError if its widths differ."""
        for name in FIELDS:
            if name not in self._files:
                self._files[name] = _GrowingArray(self._staging / f"{name}.npy", name)
            self._files[name].append(getattr(partition, name))
        self._starts.append(partition.starts[1:] + self._starts[-1][-1])
        self._ended.append(partition.has_ended)
        self._reward_names = partition.reward_names

    def __enter__(self) -> TrajectoryWriter:
        """Return the writer."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        """Finish the folder, or remove what was written if there was an error."""
        try:
            for file in self._files.values():
                file.close()
            if kind is None:
                if not self._files:
                    raise ValueError(f"{self._folder}: no partition was appended")
                np.save(self._staging / "starts.npy", np.concatenate(self._starts))
                np.save(self._staging / "ended.npy", np.concatenate(self._ended))
                (self._staging / NAMES).write_text(json.dumps(self._reward_names), encoding="utf-8")
                _replace(self._staging, self._folder)
        finally:
            shutil.rmtree(self._staging, ignore_errors=True)


def open_trajectories(folder: Path) -> Trajectories:
    """Open what a ``TrajectoryWriter`` wrote, memory-mapped and read-only.

    Its content is checked as that of any Trajectories, once, block by block. Raises ValueError naming the file that is
    missing or torn.
    """
    arrays = {name: _open(folder / f"{name}.npy") for name in (*FIELDS, "starts", "ended")}
    try:
        names = tuple(json.loads((folder / NAMES).read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder / NAMES} is no list of names ({error}); write the trajectories anew") from None
    return Trajectories(**arrays, reward_names=names)


class _GrowingArray:
    """One ``.npy`` file whose first axis grows: numpy pads the header so that the final length fits in its place."""

    def __init__(self, path: Path, name: str) -> None:
        self._name, self._rows = name, 0
        self._file: BinaryIO = path.open("wb")
        self._trailing: tuple[int, ...] | None = None
        self._dtype: np.dtype = np.dtype(np.float32)

    def append(self, values: NDArray[Any]) -> None:
        if self._trailing is None:
            self._trailing, self._dtype = values.shape[1:], values.dtype
            self._write_header()
        if values.shape[1:] != self._trailing or values.dtype != self._dtype:
            raise ValueError(
                f"{self._name} of this partition is {values.dtype} [n, {values.shape[1:]}], that of those before "
                f"{self._dtype} [n, {self._trailing}]"
            )
        self._file.write(np.ascontiguousarray(values).data)
        self._rows += len(values)

    def close(self) -> None:
        if self._trailing is not None:
            self._file.seek(0)
            self._write_header()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def _write_header(self) -> None:
        header = {
            "descr": npy.dtype_to_descr(self._dtype),
            "fortran_order": False,
            "shape": (self._rows, *(self._trailing or ())),
        }
        npy.write_array_header_1_0(self._file, header)


def _open(path: Path) -> NDArray[Any]:
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise ValueError(f"{path} is missing: {path.parent} holds no whole trajectories; write them anew") from None
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path} is not a whole .npy file ({error}); write the trajectories anew") from None
    return array


def _replace(new: Path, place: Path) -> None:
    """Put ``new`` in the place of the folder ``place``, which may exist."""
    if place.exists():
        old = Path(tempfile.mkdtemp(dir=place.parent, prefix=f".{place.name}-old-"))
        place.rename(old / "old")
        new.rename(place)
        shutil.rmtree(old, ignore_errors=True)
    else:
        new.rename(place)

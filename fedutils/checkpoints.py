"""Checkpoints of a run: the server's state after a round, as NumPy arrays in one file."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from fedutils import results
from fedutils.errors import UsageError


class CheckpointManager(tff.program.ProgramStateManager):
    """A `tff.program.ProgramStateManager` that keeps the newest states as `.npz` files.

    TFF's own `FileProgramStateManager` writes a SavedModel for each state: with the versions
    that are installed here it fails on structures of NumPy arrays, and it would trace a new
    function each round. A file here appears whole or not at all, holds no pickled object, and
    one that was damaged later is passed over in favour of the one before.
    """

    _KEEP = 2
    _FILES = f"round_{'[0-9]' * 6}.npz"

    def __init__(self, folder: Path, newest: float = float("inf")) -> None:
        """Prepares the folder, which need not exist.

        Args:
            folder: Where the states are; made in a folder that exists.
            newest: States of later rounds than this are passed over when a run resumes.
        """
        self._folder, self._newest = folder, newest

    def _path(self, version: int) -> Path:
        return self._folder / f"round_{version:06d}.npz"

    async def get_versions(self) -> list[int] | None:
        """Returns the rounds of which a readable state exists, oldest first."""
        return [
            version
            for path in sorted(self._folder.glob(self._FILES))
            if (version := int(path.stem.removeprefix("round_"))) <= self._newest
            and _is_whole(path)
        ] or None

    async def load(self, version: int, structure: Any) -> Any:
        """Returns the state after a round.

        Args:
            version: The round.
            structure: A state of the same structure, shapes and dtypes.

        Raises:
            tff.program.ProgramStateNotFoundError: If there is none.
            UsageError: If it is the state of something else, or not made of plain arrays.
        """
        expected = [np.asarray(leaf) for leaf in tf.nest.flatten(structure)]
        try:
            with np.load(self._path(version), allow_pickle=False) as arrays:
                leaves = [arrays[f"leaf_{i:04d}"] for i in range(len(arrays.files) - 1)]
        except FileNotFoundError as error:
            raise tff.program.ProgramStateNotFoundError(version) from error
        except (KeyError, ValueError):  # names or contents that `save` does not write
            leaves = []
        if [(x.shape, x.dtype) for x in leaves] != [(x.shape, x.dtype) for x in expected]:
            raise UsageError(
                f"the checkpoint {self._path(version)} is of another model or aggregator: "
                "delete the run's folder to train anew"
            )
        return tf.nest.pack_sequence_as(structure, leaves)

    async def save(self, program_state: Any, version: int) -> None:
        """Saves the state after a round; all but the newest two are removed.

        Raises:
            UsageError: If it cannot be written, for example because the disk is full.
        """
        await asyncio.sleep(0)
        try:
            self._folder.mkdir(exist_ok=True)  # in a run's folder that was deleted: an error
        except OSError as error:
            raise results.not_written(self._folder.parent, error) from error
        leaves = [np.asarray(leaf) for leaf in tf.nest.flatten(program_state)]
        arrays = {f"leaf_{i:04d}": leaf for i, leaf in enumerate(leaves)}
        content = io.BytesIO()
        np.savez(content, **arrays, leaves=len(arrays))
        results.write_bytes(self._path(version), content.getbuffer())
        for old in sorted(self._folder.glob(self._FILES))[: -self._KEEP]:
            old.unlink(missing_ok=True)

    async def remove_all(self) -> None:
        """Removes all states."""
        for path in self._folder.glob("round_*"):
            path.unlink()


def _is_whole(path: Path) -> bool:
    """Returns whether all arrays that were saved are in a file, and have their check sums."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return arrays.zip.testzip() is None and len(arrays.files) == arrays["leaves"] + 1
    except Exception:  # a damaged archive raises a dozen kinds
        return False

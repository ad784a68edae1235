"""Checkpoints of a run: the server's state after a round, as NumPy arrays in one file."""

from __future__ import annotations

import asyncio
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff


class CheckpointManager(tff.program.ProgramStateManager):
    """A `tff.program.ProgramStateManager` that keeps the newest states as `.npz` files.

    TFF's own `FileProgramStateManager` writes a SavedModel for each state: with the versions
    that are installed here it fails on structures of NumPy arrays, and it would trace a new
    function each round. A file here appears whole or not at all, holds no pickled object, and
    one that was damaged later is passed over in favour of the one before.
    """

    _KEEP = 2

    def __init__(self, folder: Path) -> None:
        """Prepares the folder, which need not exist."""
        self._folder = folder

    def _path(self, version: int) -> Path:
        return self._folder / f"round_{version:06d}.npz"

    async def get_versions(self) -> list[int] | None:
        """Returns the rounds of which a readable state exists, oldest first."""
        versions = []
        for path in sorted(self._folder.glob("round_*.npz")):
            try:
                with zipfile.ZipFile(path) as archive:
                    if archive.testzip() is None:
                        versions.append(int(path.stem.removeprefix("round_")))
            except (zipfile.BadZipFile, OSError):
                continue
        return versions or None

    async def load(self, version: int, structure: Any) -> Any:
        """Returns the state after a round.

        Args:
            version: The round.
            structure: A state of the same structure, shapes and dtypes.

        Raises:
            tff.program.ProgramStateNotFoundError: If there is none.
            ValueError: If it is the state of something else.
        """
        try:
            with np.load(self._path(version), allow_pickle=False) as arrays:
                leaves = [arrays[f"leaf_{i:04d}"] for i in range(len(arrays.files))]
        except FileNotFoundError as error:
            raise tff.program.ProgramStateNotFoundError(version) from error
        expected = [np.asarray(leaf) for leaf in tf.nest.flatten(structure)]
        if [(x.shape, x.dtype) for x in leaves] != [(x.shape, x.dtype) for x in expected]:
            raise ValueError(
                f"the checkpoint {self._path(version).name} is of another model or aggregator: "
                "delete the run's folder to train anew"
            )
        return tf.nest.pack_sequence_as(structure, leaves)

    async def save(self, program_state: Any, version: int) -> None:
        """Saves the state after a round; all but the newest two are removed."""
        await asyncio.sleep(0)
        self._folder.mkdir(parents=True, exist_ok=True)
        leaves = [np.asarray(leaf) for leaf in tf.nest.flatten(program_state)]
        path = self._path(version)
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            np.savez(file, **{f"leaf_{i:04d}": leaf for i, leaf in enumerate(leaves)})
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        for old in sorted(self._folder.glob("round_*.npz"))[: -self._KEEP]:
            old.unlink()

    async def remove_all(self) -> None:
        """Removes all states."""
        for path in self._folder.glob("round_*"):
            path.unlink()

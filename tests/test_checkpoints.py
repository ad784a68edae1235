import asyncio
import collections

import numpy as np
import pytest
import tensorflow_federated as tff

from fedutils.checkpoints import CheckpointManager


def state(value):
    return collections.OrderedDict(
        weights=[np.full([3, 2], value, np.float32), np.zeros([0], np.float32)],
        round=np.int64(value),
        empty=(),
    )


def save(manager, *rounds):
    for round_number in rounds:
        asyncio.run(manager.save(state(round_number), round_number))


def latest(manager):
    return asyncio.run(manager.load_latest(state(0)))


def test_round_trip_keeps_the_newest_two(tmp_path):
    manager = CheckpointManager(tmp_path / "new")
    assert latest(manager) == (None, 0)
    save(manager, 1, 2, 3)
    loaded, version = latest(CheckpointManager(tmp_path / "new"))
    assert version == 3
    np.testing.assert_array_equal(loaded["weights"][0], np.full([3, 2], 3.0))
    assert loaded["round"].dtype == np.int64 and loaded["empty"] == ()
    assert asyncio.run(manager.get_versions()) == [2, 3]
    asyncio.run(manager.remove_all())
    assert latest(manager) == (None, 0)


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty"])
def test_damaged_checkpoint_is_passed_over(tmp_path, damage):
    manager = CheckpointManager(tmp_path)
    save(manager, 1, 2)
    newest = max(tmp_path.iterdir())
    content = bytearray(newest.read_bytes())
    if damage == "flip":
        content[content.index(np.float32(2.0).tobytes()) + 2] ^= 1
    newest.write_bytes({"truncate": content[:-30], "empty": b"", "flip": content}[damage])
    loaded, version = latest(manager)
    assert version == 1
    assert loaded["weights"][0][0, 0] == 1.0


def test_checkpoint_of_something_else_is_refused(tmp_path):
    manager = CheckpointManager(tmp_path)
    save(manager, 1)
    other = state(0)
    other["weights"][0] = np.zeros([2, 3], np.float32)
    with pytest.raises(ValueError, match="another model or aggregator"):
        asyncio.run(manager.load(1, other))
    with pytest.raises(tff.program.ProgramStateNotFoundError):
        asyncio.run(manager.load(7, state(0)))

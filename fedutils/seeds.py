"""One seed per run, split into independent named streams."""

from __future__ import annotations

import hashlib


def stream(seed: int, *names: str | int) -> int:
    """Returns the seed of a named stream of a run.

    Streams with different names are independent (SHA-256 of the seed and the names), so adding
    one never shifts another.

    Args:
        seed: The run's seed.
        *names: What the stream is for, for example `"shuffle", round_number, client_id`.

    Returns:
        An integer in [1, 2**31 - 1), valid as a seed of TensorFlow, Keras and NumPy.
    """
    text = "/".join(str(part) for part in (seed, *names))
    return 1 + int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % (2**31 - 2)

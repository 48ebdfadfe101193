"""Named random streams: every draw of a trial comes from (seed, stream name, step), never from a global state.

Trials that differ in scheme alone so see the same normals, data order, augmentation and dropout masks, and a
resumed trial needs no saved generator state.
"""

import hashlib


def stream_seed(seed: int, *names: str | int) -> int:
    """A 63-bit generator seed for the stream `names` of `seed`, equal on every machine."""
    text = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1

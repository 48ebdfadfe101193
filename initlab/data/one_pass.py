"""One pass over all pictures of a part: how far it is, every few seconds, and which files cannot be read."""

import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from initlab.data.pictures import Pictures, in_batches, read
from initlab.errors import UserError

BATCH = 64
# Named in one message; a set with more is not looked at any further.
MOST_PROBLEMS = 10
INTERVAL_S = 10.0


def one_pass(
    pictures: Pictures, workers: int, verb: str, say: Callable[[str], None]
) -> Iterator[tuple[list[tuple[int, int]], Tensor]]:
    """Every picture once, in batches: (height, width) of each, and the pixels of all in a row, on the CPU.

    Args:
        workers: processes that read; 0 = this one.
        verb: what is done with the pictures, for `say`: `measured`.
        say: gets a line every ten seconds.

    Raises:
        UserError: pictures that cannot be read, when the pass is over or has met ten of them.
    """
    done, problems = 0, list[str]()
    start = last_line = time.monotonic()
    batches = read(pictures, in_batches(len(pictures), BATCH), workers, torch.device("cpu"))
    for _, sizes, pixels, batch_problems in batches:
        problems += batch_problems
        if len(problems) >= MOST_PROBLEMS:
            break
        yield sizes, pixels
        done += len(sizes)
        now = time.monotonic()
        if now - last_line >= INTERVAL_S:
            last_line, rate = now, done / (now - start)
            remaining_s = (len(pictures) - done) / rate if rate else 0
            say(f"{verb} {done:,} of {len(pictures):,} pictures, {rate:,.0f}/s, {remaining_s:,.0f} s left")
    if problems:
        more = f" (and {len(problems) - 1} more files: {'; '.join(problems[1:MOST_PROBLEMS])})" if problems[1:] else ""
        raise UserError(f"data: {problems[0]}{more}")

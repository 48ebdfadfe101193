"""What a trial prints, in a file of bounded size."""

from contextlib import suppress
from pathlib import Path

KEPT = 500_000  # bytes; a file grows to twice as many, then loses its older half
CUT = b"[older output was dropped here]\n"


class LogFile:
    """A file that keeps the last of what is written to it; there from the first byte on."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, output: bytes) -> None:
        """Append; what finds no room, on a full disk or in a folder that is gone, is dropped."""
        with suppress(OSError), open(self.path, "a+b") as file:
            file.write(output)
            if file.tell() > 2 * KEPT:
                file.seek(-KEPT, 2)
                end = file.read()
                file.truncate(0)
                file.write(CUT + end)

"""How a process of Ray died, in one line."""


class Died(Exception):
    """A process of a gang died; which, and how."""


def exit_detail(error: Exception) -> str:
    """How a process ended, out of Ray's words for it."""
    end = str(error).strip().splitlines()[-1].rpartition("Worker exit detail: ")[2]
    return end.partition(" Some common causes")[0]

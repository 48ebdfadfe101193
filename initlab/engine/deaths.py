"""Processes that die with their task: how often a task is tried again, and how a death is told in one line."""

MAX_DEATHS = 2  # times that a task may take its process down before it is given up
TIMES = f"{MAX_DEATHS + 1} times"


class Died(Exception):
    """A process of a gang died; which, and how."""


def exit_detail(error: Exception) -> str:
    """How a process ended, out of Ray's words for it."""
    end = str(error).strip().splitlines()[-1].rpartition("Worker exit detail: ")[2]
    return end.partition(" Some common causes")[0]

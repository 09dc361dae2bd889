"""How many cores there are to work with."""

import os


def cores() -> int:
    """Return how many cores this process may run on: a scheduler or a container may grant fewer than the host has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

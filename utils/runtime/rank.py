"""This process's number among those that ``torchrun`` starts; light, for those without torch."""

import os


def local_rank() -> int:
    """This process's number on its machine, which is that of its GPU."""
    return int(os.environ.get("LOCAL_RANK", 0))


def rank() -> int:
    """This process's number in the run, before the group is joined as well."""
    return int(os.environ.get("RANK", 0))

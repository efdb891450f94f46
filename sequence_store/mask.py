"""Mask keys: which model's entries a reader accepts as history."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase


def accepted(mask_key: str, accept: Sequence[str]) -> bool:
    """Tell whether ``mask_key`` equals, or matches as a glob, one of ``accept``. ``*`` takes all, nothing none."""
    return any(mask_key == pattern or fnmatchcase(mask_key, pattern) for pattern in accept)

"""Small file systems, for what happens when they are full. Only root may mount them."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["ADVICE", "fill", "mountable", "small_disk"]

ADVICE = "a small file system cannot be mounted here; that is for root, with the capability CAP_SYS_ADMIN"


def mountable() -> bool:
    """Whether `small_disk` works here."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            with small_disk(Path(folder) / "disk", 1):
                return True
        except (subprocess.CalledProcessError, FileNotFoundError):
            return False


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Generator[Path, None, None]:
    """A file system of this size at a new folder, where everybody may write; gone at the end."""
    folder.mkdir()
    options = f"size={megabytes}m,mode=777"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True, capture_output=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path, *, leave: int) -> Path:
    """A file that takes all room but so many bytes."""
    path, state = disk / "filler", os.statvfs(disk)
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, state.f_bavail * state.f_frsize - leave)
    return path

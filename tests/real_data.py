"""Where real event streams are, which the project does not ship: `ENSUE_DATA`, or the folder `shared/data` beside the project."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["DATA"]

DATA = Path(os.environ.get("ENSUE_DATA") or Path(__file__).parents[2] / "shared" / "data")

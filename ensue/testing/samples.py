"""Golden samples in tests: old events are still read as they were when they were recorded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from ensue.app.event_types import registry_of, types_of
from ensue.events.samples import Samples, differences

if TYPE_CHECKING:
    from ensue.app import App

__all__ = ["check_samples"]


def check_samples(app: App, path: str | Path) -> None:
    """Every recorded sample is read by the application as it was recorded to be, and each present version has one.

    `path` is a file, or a folder of them, that `ensue schema samples` wrote.
    Errors: `AssertionError` with each difference; `OSError`; `msgspec.MsgspecError` for a file that holds no samples.
    """
    given = Path(path)
    files = sorted(given.glob("*.json")) if given.is_dir() else [given]
    found = [sample for file in files for sample in msgspec.json.decode(file.read_bytes(), type=Samples).samples]
    registry = registry_of(app)
    events = types_of(app, registry, also={sample.type for sample in found})
    told = list(differences(registry, events, Samples(tuple(found))))
    if told:
        raise AssertionError(
            f"{len(told)} of the samples in {path} do not hold. What is changed on purpose is recorded anew with "
            "`ensue schema samples`, and looked at where it is committed:\n- " + "\n- ".join(told)
        )

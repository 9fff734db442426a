"""A run is a function of its tape: step for step, in this process and in any other."""

from __future__ import annotations

import os
import subprocess
import sys
from hashlib import sha256

import pytest

from ensue.testing.simulation import Setting, Tape, run
from tests.testing.simulation.warehouse import is_quiet, orders_are_shipped, warehouse

PROGRAM = "from tests.testing.simulation.test_determinism import digest; print(*map(digest, range(1, 13)))"


def digest(seed: int) -> str:
    """Of every step of a run, and of all that happened in it."""
    steps: list[str] = []
    setting = Setting(orders_are_shipped, warehouse(), quiet=is_quiet)
    outcome = run(setting, Tape.record(seed), on_step=lambda process, name: steps.append(f"{process} {name}"))
    return sha256(repr((steps, outcome.trace, outcome.seconds)).encode()).hexdigest()


def test_the_same_seed_runs_the_same_steps() -> None:
    assert [digest(seed) for seed in range(1, 13)] == [digest(seed) for seed in range(1, 13)]


def test_seeds_run_different_steps() -> None:
    assert len({digest(seed) for seed in range(1, 13)}) > 5


@pytest.mark.parametrize("hash_seed", ["0", "1", "4242"])
def test_a_process_with_other_hashes_runs_the_same_steps(hash_seed: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.getcwd()},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == [digest(seed) for seed in range(1, 13)]

"""For those who test what they build on Ensue: given, when, then; simulation; the contracts of adapters."""

from ensue.testing.applications import AppSimulation, simulate
from ensue.testing.checking import NotDeterministic
from ensue.testing.given import Given, Outcome, given
from ensue.testing.marbles import assert_matches
from ensue.testing.pure import NotPure
from ensue.testing.samples import check_samples

__all__ = [
    "AppSimulation",
    "Given",
    "NotDeterministic",
    "NotPure",
    "Outcome",
    "assert_matches",
    "check_samples",
    "given",
    "simulate",
]

"""For those who test what they build on Ensue: given, when, then; simulation; the contracts of adapters."""

from ensue.testing.applications import AppSimulation, Given, Outcome, given, simulate

__all__ = ["AppSimulation", "Given", "Outcome", "given", "simulate"]

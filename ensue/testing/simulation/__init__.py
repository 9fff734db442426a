"""Deterministic simulation: a whole application on its real code, in virtual time, with faults and crashes.

tape        every choice of a run, recorded
steps       what the loop runs
loop        the event loop: virtual time, the order of steps from the tape
process     a process and its death
simulated   the `World` of a simulated process
nodes       life after life of a program
simulation  what a test holds: the application, time, the power switch
run         one run
explore     many: no fault, a crash everywhere, pairs of crashes, chance
shrink      a failing run made simple
story       a failing run told
"""

from __future__ import annotations

from ensue.testing.simulation.explore import Crashes, Report, SimulatedTest, explore, replay, simulate
from ensue.testing.simulation.faults import forgetful
from ensue.testing.simulation.loop import Deadlock, Livelock, SimulationLoop, Stuck
from ensue.testing.simulation.process import Crashed
from ensue.testing.simulation.run import Outcome, Scenario, Setting, memory_database, run
from ensue.testing.simulation.simulated import SimulatedWorld
from ensue.testing.simulation.simulation import NotQuiet, Quiet, Simulation, Start
from ensue.testing.simulation.story import SimulationFailure
from ensue.testing.simulation.tape import Choice, Diverged, Tape

__all__ = [
    "Choice",
    "Crashed",
    "Crashes",
    "Deadlock",
    "Diverged",
    "Livelock",
    "NotQuiet",
    "Outcome",
    "Quiet",
    "Report",
    "Scenario",
    "Setting",
    "SimulatedTest",
    "SimulatedWorld",
    "Simulation",
    "SimulationFailure",
    "SimulationLoop",
    "Start",
    "Stuck",
    "Tape",
    "explore",
    "forgetful",
    "memory_database",
    "replay",
    "run",
    "simulate",
]

"""Ensue: event-driven applications in Python.

Read the code in this order: `errors`, `world`, `observe`, `events`, `store`, `consumers`, `domain`, `app`, `testing`, `cli`;
a module imports only from those before it. ARCHITECTURE.md follows an event through them.
"""

from ensue.app import ONE_ORDER, App, Receipt, Service
from ensue.consumers.policy import Retry
from ensue.consumers.transaction import Transaction
from ensue.domain import Decider, Of, State, View
from ensue.errors import EnsueError, Refusal
from ensue.events.context import Context
from ensue.events.message import Command, Event, Query, days, hours, minutes, seconds
from ensue.events.recorded import Criteria, Position, Recorded, UnknownEvent
from ensue.events.registry import Fields, upcast
from ensue.store.base import DeadLetter

__all__ = [
    "ONE_ORDER",
    "App",
    "Command",
    "Context",
    "Criteria",
    "DeadLetter",
    "Decider",
    "EnsueError",
    "Event",
    "Fields",
    "Of",
    "Position",
    "Query",
    "Receipt",
    "Recorded",
    "Refusal",
    "Retry",
    "Service",
    "State",
    "Transaction",
    "UnknownEvent",
    "View",
    "days",
    "hours",
    "minutes",
    "seconds",
    "upcast",
]

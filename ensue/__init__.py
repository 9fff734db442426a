"""Ensue: event-driven applications in Python.

What is said: `Event`, `Command`, `Query`, `Refusal`. Who reacts, decides, answers: functions registered on an `App` or a
`Service`. What they look at: `State`, `View`. What is noticed: `ensue.patterns`. What is waited for: `Flow`. What goes
between applications: `Channel`, and `connect` where there is no log. Every write gives a `Receipt`. How you test it:
`ensue.testing`.

Read the code in this order: `errors`, `world`, `observe`, `events`, `store`, `channels`, `consumers`, `domain`, `patterns`,
`workflows`, `app`, `http`, `testing`, `examples`, `cli`; a module imports only from those before it. ARCHITECTURE.md follows an event
through them.
"""

from ensue.app import ONE_ORDER, App, Incoming, Link, Receipt, Service, Subscribed, connect
from ensue.channels import Channel
from ensue.consumers.policy import Retry
from ensue.consumers.transaction import Transaction
from ensue.domain import Answer, Call, Decided, Decider, Of, Proceed, State, View
from ensue.errors import EnsueError, Refusal
from ensue.events.context import Context
from ensue.events.message import Command, Event, Query, days, hours, minutes, seconds
from ensue.events.personal import FORGOTTEN, Forgotten, Personal, Subject, SubjectForgotten
from ensue.events.recorded import Archived, Criteria, Position, Recorded, UnknownEvent
from ensue.events.upcasting import Fields, upcast
from ensue.store.base import DeadLetter
from ensue.workflows import Approval, Flow

__all__ = [
    "FORGOTTEN",
    "ONE_ORDER",
    "Answer",
    "App",
    "Approval",
    "Archived",
    "Call",
    "Channel",
    "Command",
    "Context",
    "Criteria",
    "DeadLetter",
    "Decided",
    "Decider",
    "EnsueError",
    "Event",
    "Fields",
    "Flow",
    "Forgotten",
    "Incoming",
    "Link",
    "Of",
    "Personal",
    "Position",
    "Proceed",
    "Query",
    "Receipt",
    "Recorded",
    "Refusal",
    "Retry",
    "Service",
    "State",
    "Subject",
    "SubjectForgotten",
    "Subscribed",
    "Transaction",
    "UnknownEvent",
    "View",
    "connect",
    "days",
    "hours",
    "minutes",
    "seconds",
    "upcast",
]

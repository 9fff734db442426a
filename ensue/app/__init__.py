"""The application: what is registered, how a URL becomes a store, how it runs."""

from ensue.app.application import App, Portal, Settings
from ensue.app.dead_letters import DeadLetters
from ensue.app.health import Health, HealthPart
from ensue.app.links import Incoming, Link, Subscribed, connect
from ensue.app.log import LogView
from ensue.app.receipt import Receipt
from ensue.app.service import ONE_ORDER, Reaction, Service
from ensue.app.transaction import OpenTransaction
from ensue.app.urls import open_store

__all__ = [
    "ONE_ORDER",
    "App",
    "DeadLetters",
    "Health",
    "HealthPart",
    "Incoming",
    "Link",
    "LogView",
    "OpenTransaction",
    "Portal",
    "Reaction",
    "Receipt",
    "Service",
    "Settings",
    "Subscribed",
    "connect",
    "open_store",
]

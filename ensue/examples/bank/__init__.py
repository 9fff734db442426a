"""A bank: event sourcing for money. Every movement has two legs, so the balances of all accounts together are zero, always.

messages      what happens in it, what can be wished, and how it is refused
accounts      the state of an account, and what is decided on it
statements    what customers see: a view
auditing      a handler that reports large movements
ledger        a second count of the whole log, by other means, that trusts nothing of the above
application   put together
clients       what its customers do, for the demo
running       many of them, in processes that are killed; the ledger looks on
"""

from ensue.examples.bank.application import bank

__all__ = ["bank"]

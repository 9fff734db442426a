"""What is decided, what is asked and what is shown: states, deciders, commands, queries and views, as folds over events.

    class Account(State, key="account_id"):
        balance: Decimal = Decimal(0)

        def evolve(self, event: Deposited | Withdrawn) -> Self: ...

    @bank.command
    def withdraw(command: Withdraw, account: Account) -> Withdrawn: ...

`fold.py` says what a fold is, `states.py` how a state is loaded, `commands.py` how a command is decided, `queries.py` how a
question is answered, `view.py` what a view is.
"""

from __future__ import annotations

from ensue.domain.call import Answer, Call, Principal, Proceed
from ensue.domain.decided import Decided
from ensue.domain.fold import FoldMeta
from ensue.domain.state import Decider, Of, State
from ensue.domain.view import SqlView, View

__all__ = ["Answer", "Call", "Decided", "Decider", "FoldMeta", "Of", "Principal", "Proceed", "SqlView", "State", "View"]

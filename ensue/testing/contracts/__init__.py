"""What every store must do, as tests: for those who write an adapter.

A contract is a class of pytest tests. Subclass `StoreContract`, and the contracts of the capabilities your adapter declares,
in a test module of yours, and say how an adapter on an empty log is made:

    from ensue.testing.contracts import DurableContract, SharedContract, SqlContract, StoreContract

    class TestMyStore(StoreContract, DurableContract, SharedContract):
        @pytest.fixture(autouse=True)
        def _place(self, tmp_path):
            self.url = create_an_empty_database(tmp_path)

        def store(self):
            return MyStore(self.url)

pytest makes an instance for each test, so each test has an empty log of its own. `store()` may be called several times in one
test: every call returns an adapter, not yet opened, of the same log.

| contract | for |
| --- | --- |
| `StoreContract` | every store: appending, reading, consuming |
| `DurableContract` | `durable`: closed and opened again, everything is there |
| `SharedContract` | `many_processes`: two adapters have the log open at the same time |
| `SqlContract` | `sql`: functions inside the transaction run statements |
| `TransferContract` | what `ensue copy` moves logs to and from; it needs `transfer()` and `elsewhere()` as well |

A test fails if an adapter declares a capability whose contract its class leaves out, or the reverse. Nothing here needs a
plugin. Tests run against the real clock, moved where time matters, and wait for conditions, never for time to pass.
"""

import pytest

# So that a failure says what was compared. Before the modules are imported.
pytest.register_assert_rewrite(
    *(
        f"{__name__}.{part}"
        for part in ("appending", "reading", "claiming", "committing", "capabilities", "transferring")
    )
)

from ensue.testing.contracts.appending import AppendingContract  # noqa: E402
from ensue.testing.contracts.bench import Bench, Contract, MovableWorld, contract_test  # noqa: E402
from ensue.testing.contracts.capabilities import DurableContract, SharedContract, SqlContract  # noqa: E402
from ensue.testing.contracts.claiming import ClaimingContract  # noqa: E402
from ensue.testing.contracts.committing import CommittingContract  # noqa: E402
from ensue.testing.contracts.reading import ReadingContract  # noqa: E402
from ensue.testing.contracts.transferring import TransferContract  # noqa: E402

__all__ = [
    "Bench",
    "Contract",
    "DurableContract",
    "MovableWorld",
    "SharedContract",
    "SqlContract",
    "StoreContract",
    "TransferContract",
    "contract_test",
]


class StoreContract(AppendingContract, ReadingContract, ClaimingContract, CommittingContract):
    """What every store promises. Define `store()`."""

    @contract_test
    async def test_it_is_held_to_all_that_it_declares(self, bench: Bench) -> None:
        declared = bench.log.capabilities
        assert isinstance(self, DurableContract) == declared.durable, "inherit DurableContract if, and only if, durable"
        assert isinstance(self, SharedContract) == declared.many_processes, (
            "the same for SharedContract, many_processes"
        )
        assert isinstance(self, SqlContract) == declared.sql, "the same for SqlContract, sql"

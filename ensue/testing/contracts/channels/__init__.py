"""What every broker must do, as tests: for those who write an adapter of a channel.

A contract is a class of pytest tests. Subclass `BrokerContract`, and the contracts of the capabilities your adapter declares,
in a test module of yours, and say how an adapter is made:

    from ensue.testing.contracts.channels import BroadcastContract, BrokerContract, GroupsContract, IndividualContract

    class TestMyBroker(BrokerContract, GroupsContract, IndividualContract, BroadcastContract):
        @pytest.fixture(autouse=True)
        def _server(self, my_server):
            self.url = my_server.url

        def broker(self, **parameters):
            return MyBroker(place(f"{self.url}?{urlencode(parameters)}"))

`broker()` may be called several times in one test: every call returns an adapter, not yet opened, on the same server. The
parameters are those of a test, like `create="no"`; your own go beside them. pytest makes an instance for each test; each test
has an address of its own, `self.address`, and groups of its own, which are removed after it.

| contract | for |
| --- | --- |
| `BrokerContract` | every broker: publishing, receiving, addresses, closing |
| `GroupsContract` | `groups`: what was not accepted comes again; members share, or without `shares` the newest has the place |
| `IndividualContract` | `groups` without `cumulative`: each message is accepted for itself |
| `CumulativeContract` | `cumulative`: with a message all before it are accepted |
| `BroadcastContract` | `broadcast`: who has no group gets all that comes |
| `ReplayContract` | `replay`: a group begins with what is there |
| `AssignsContract` | `assigns`: several members, partitions, handing over; addresses of 4 partitions or more |
| `DelayContract` | `delay` |
| `DurableBrokerContract` | `durable`: confirmed is confirmed, whatever happens to the server; it includes the next one |
| `RestartContract` | every broker with a server of its own, which must be stopped, killed and started by the test |
| `ProcessesContract` | every broker that other processes reach, by `self.url`: a member is killed |

A test fails if an adapter declares a capability whose contract its class leaves out, or the reverse. Nothing here needs a
plugin. Brokers differ in whether they keep what is published before anybody subscribed, so tests subscribe first, but for those
of `replay`. Time limits are far above what a broker needs; settings like the time after which a member counts as dead should be
a few seconds on the server of a test.
"""

import pytest

# So that a failure says what was compared. Before the modules are imported.
pytest.register_assert_rewrite(
    *(f"{__name__}.{part}" for part in ("bench", "broker", "groups", "kinds", "assigns", "restart", "processes"))
)

from ensue.testing.contracts.channels.assigns import AssignsContract  # noqa: E402
from ensue.testing.contracts.channels.bench import Bench, ChannelContract, bodies, channel_test, numbered  # noqa: E402
from ensue.testing.contracts.channels.broker import AddressContract, ClosingContract, PublishingContract  # noqa: E402
from ensue.testing.contracts.channels.groups import (  # noqa: E402
    CumulativeContract,
    GroupsContract,
    IndividualContract,
)
from ensue.testing.contracts.channels.kinds import BroadcastContract, DelayContract, ReplayContract  # noqa: E402
from ensue.testing.contracts.channels.processes import ProcessesContract  # noqa: E402
from ensue.testing.contracts.channels.restart import DurableBrokerContract, RestartContract  # noqa: E402

__all__ = [
    "AssignsContract",
    "Bench",
    "BroadcastContract",
    "BrokerContract",
    "ChannelContract",
    "CumulativeContract",
    "DelayContract",
    "DurableBrokerContract",
    "GroupsContract",
    "IndividualContract",
    "ProcessesContract",
    "ReplayContract",
    "RestartContract",
    "bodies",
    "channel_test",
    "numbered",
]


class BrokerContract(PublishingContract, AddressContract, ClosingContract):
    """What every broker promises. Define `broker()`."""

    @channel_test
    async def test_it_is_held_to_all_that_it_declares(self, bench: Bench) -> None:
        able = bench.broker.capabilities
        contracts: dict[type[object], bool] = {
            GroupsContract: able.groups,
            IndividualContract: able.groups and not able.cumulative,
            CumulativeContract: able.cumulative,
            BroadcastContract: able.broadcast,
            ReplayContract: able.replay,
            AssignsContract: able.assigns,
            DelayContract: able.delay,
            DurableBrokerContract: able.durable,
        }
        for contract, declared in contracts.items():
            assert isinstance(self, contract) == declared, (
                f"inherit {contract.__name__} if, and only if, it is declared: {able}"
            )

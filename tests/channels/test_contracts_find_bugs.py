"""The contract can fail: a broker with a planted bug is found by the test that says so."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ensue.app.log_brokers import SqliteBroker
from ensue.channels.urls import place
from ensue.errors import EnsueError
from ensue.testing.contracts.channels import (
    AssignsContract,
    BroadcastContract,
    BrokerContract,
    CumulativeContract,
    DelayContract,
    DurableBrokerContract,
    GroupsContract,
    IndividualContract,
    ProcessesContract,
    ReplayContract,
)
from tests.channels import bugs, group_bugs
from tests.channels.doubles import Double, Power

_numbers = itertools.count()


class Held(
    BrokerContract,
    GroupsContract,
    IndividualContract,
    BroadcastContract,
    ReplayContract,
    DelayContract,
    DurableBrokerContract,
):
    """Not collected: its tests are called."""

    query = "largest=100000"
    slow_seconds = 0.2

    def __init__(self, kind: type[Double]) -> None:
        self.kind = kind
        self.power = Power()
        self.name = f"bugs-{next(_numbers)}"

    def broker(self, **parameters: str) -> Double:
        given = "".join(f"&{name}={value}" for name, value in parameters.items())
        return self.kind(place(f"memory://{self.name}?{self.query}{given}"), self.power)

    async def stop_server(self) -> None:
        self.power.off()

    async def kill_server(self) -> None:
        self.power.off()

    async def start_server(self) -> None:
        self.power.on = True


class HeldAssigned(Held, AssignsContract):
    query = "largest=100000&partitions=4&assign=yes"


@pytest.mark.parametrize(
    ("bug", "test"),
    [
        # publishing
        (bugs.DropsEmptyBodies, Held.test_an_empty_body_and_no_headers_come_as_they_are),
        (bugs.ManglesHeaders, Held.test_a_message_comes_as_it_was_published),
        (bugs.StripsHeaders, Held.test_a_message_comes_as_it_was_published),
        (bugs.ForgetsTheContentType, Held.test_a_message_comes_as_it_was_published),
        (bugs.AddsHeaders, Held.test_no_header_of_an_event_is_added),
        (bugs.CutsLargeBodies, Held.test_a_message_of_a_megabyte_or_as_large_as_the_broker_takes_comes_whole),
        (bugs.ReordersABatch, Held.test_messages_of_one_key_come_in_order_within_a_batch_and_over_batches),
        (bugs.ReordersABatch, Held.test_each_of_many_keys_keeps_its_order),
        (bugs.SendsBatchesMixed, Held.test_publishes_at_the_same_time_are_all_confirmed_and_each_keeps_its_order),
        (bugs.LosesOneInAThousand, Held.test_five_thousand_messages_come_whole_and_in_order),
        (bugs.KnowsDuplicates, Held.test_duplicates_pass_through),
        (bugs.OneTooLargeRefusesAll, Held.test_one_that_is_too_large_is_refused_alone),
        (bugs.OneTooLargeBreaksTheConnection, Held.test_one_that_is_too_large_is_refused_alone),
        (bugs.FailsWithNothing, Held.test_an_empty_batch_is_confirmed),
        (bugs.IsAloneInTheWorld, Held.test_one_connection_publishes_to_one_that_receives),
        # addresses and closing
        (bugs.FindsNothing, Held.test_what_is_there_is_found_where_nothing_may_be_created),
        (bugs.ExplainsNothing, Held.test_its_parameters_are_explained_and_none_is_one_of_every_channel),
        (bugs.ClosesOnce, Held.test_closing_again_does_nothing),
        (bugs.WaitsForAnAnswerForEver, Held.test_a_publish_that_a_close_meets_is_confirmed_or_told),
        (bugs.ConfirmsWithoutAnAddress, Held.test_publishing_to_a_missing_address_is_told_for_each_message),
        (bugs.CreatesWhereItMayNot, Held.test_what_is_missing_is_told_and_not_made_where_nothing_may_be_created),
        (bugs.DeclaresAnew, Held.test_declaring_again_changes_nothing),
        (bugs.RemovesNothing, Held.test_removing_is_for_what_is_there_and_for_what_is_not),
        (bugs.RemovesNothing, Held.test_a_subscription_whose_address_is_removed_ends),
        (bugs.RemovesNothing, Held.test_subscribing_to_a_missing_address_is_told),
        (bugs.TakesAnyParameter, Held.test_a_parameter_that_there_is_not_is_told_with_those_that_there_are),
        (bugs.ClosesOnce, Held.test_one_that_was_never_opened_can_be_closed),
        (bugs.RaisesWhenItIsClosed, Held.test_a_connection_that_is_closed_is_unavailable),
        (
            bugs.ClosesTheConnectionWithASubscription,
            Held.test_closing_one_subscription_leaves_the_connection_and_the_others,
        ),
        (bugs.WaitsForEver, Held.test_closing_ends_a_receive_that_waits),
        (bugs.WaitsForEver, Held.test_a_subscription_that_is_closed_is_unavailable),
        # receiving
        (bugs.LosesWhatACancelledReceiveHad, Held.test_a_receive_that_is_cancelled_loses_nothing),
        (bugs.ReceivesMoreThanIsAskedFor, Held.test_no_more_are_received_than_were_asked_for),
        (bugs.ReturnsNothing, Held.test_no_more_are_received_than_were_asked_for),
        (bugs.OneCallAtATime, Held.test_others_may_be_called_while_receive_waits),
        (bugs.AcceptsOnReceive, Held.test_what_was_not_accepted_comes_again_in_order_and_before_what_is_new),
        (bugs.AcceptsNothing, Held.test_what_was_accepted_never_comes_again),
        (
            bugs.AcceptsWhenTheSubscriptionIsClosed,
            Held.test_what_was_accepted_last_is_told_to_the_broker_by_closing_the_connection,
        ),
        (bugs.AcceptsAllForNone, Held.test_answering_for_no_message_does_nothing),
        (bugs.LosesWhatABroadcastHasNoRoomFor, Held.test_one_that_holds_few_gets_all_as_it_accepts_them),
        (bugs.AcceptsAllBefore, Held.test_accepting_one_accepts_no_other),
        (bugs.RejectsAllBefore, Held.test_rejecting_one_rejects_no_other),
        (bugs.RequeuesAll, Held.test_requeueing_one_requeues_no_other),
        (bugs.AnswersInOrderOnly, Held.test_a_message_that_is_accepted_makes_room_although_an_older_one_is_held),
        (bugs.RequeueAccepts, Held.test_what_is_requeued_comes_again),
        (bugs.RequeuesInReverse, Held.test_what_is_requeued_together_comes_again_in_order),
        (bugs.RejectRequeues, Held.test_what_is_rejected_never_comes_again),
        (bugs.ComesAgainBehindWhatIsNew, Held.test_what_was_not_accepted_comes_again_in_order_and_before_what_is_new),
        (bugs.ForgetsToGiveBack, Held.test_what_was_not_accepted_comes_again_in_order_and_before_what_is_new),
        (bugs.ForgetsToGiveBack, Held.test_a_member_that_comes_back_again_and_again_gets_all_in_order),
        (
            bugs.ForgetsToGiveBackWithTheConnection,
            Held.test_what_was_not_accepted_comes_again_when_the_connection_is_closed,
        ),
        (
            bugs.ForgetsToGiveBackWithTheConnection,
            Held.test_thousands_that_are_held_do_not_hold_up_the_close_and_come_again,
        ),
        (bugs.GivesBackWhenItIsReopened, Held.test_what_a_member_gave_back_goes_to_another),
        (bugs.ForgetsWhatItFetched, Held.test_what_came_and_was_never_received_comes_again),
        (bugs.CountsNothing, Held.test_deliveries_are_counted_where_the_broker_counts),
        (bugs.TellsNoBacklog, Held.test_the_backlog_is_what_waits_for_a_member),
        (group_bugs.IgnoresThePrefetch, Held.test_no_more_are_held_than_the_prefetch_and_accepting_lets_more_come),
        (group_bugs.HoldsOneForEver, Held.test_no_more_are_held_than_the_prefetch_and_accepting_lets_more_come),
        (group_bugs.FetchesMoreThanThePrefetch, Held.test_what_one_member_holds_leaves_the_rest_to_others),
        # groups
        (group_bugs.EveryMemberAGroup, Held.test_members_share_without_doubles),
        (group_bugs.AllGroupsAreOne, Held.test_every_group_gets_all),
        (group_bugs.BeginsAlwaysWithAll, Held.test_a_group_that_begins_now_does_not_see_what_was_before),
        (group_bugs.StartsAnewEachTime, Held.test_where_a_group_starts_counts_only_when_it_is_new),
        (group_bugs.ReplaysWhatWasAccepted, Held.test_what_was_accepted_never_comes_again),
        (group_bugs.ReplaysWhatWasAccepted, Held.test_a_group_that_comes_back_is_not_replayed_to),
        (group_bugs.GroupsEndWithTheirMembers, Held.test_a_group_gets_what_was_published_while_it_had_no_member),
        (group_bugs.BeginsAlwaysNow, Held.test_a_new_group_begins_with_all_there_is),
        (group_bugs.BeginsAlwaysNow, Held.test_what_one_group_accepted_is_there_for_one_that_comes_later),
        (group_bugs.BeginsAlwaysWithAll, Held.test_a_new_group_begins_at_a_time),
        (group_bugs.DoesWhatItCannot, Held.test_what_it_cannot_do_is_told_when_it_is_asked_for),
        (group_bugs.AllIsOneGroup, Held.test_a_group_and_a_broadcast_get_the_same),
        (group_bugs.BroadcastsAreAGroup, Held.test_every_subscription_gets_all),
        (group_bugs.BroadcastsAreAGroup, Held.test_one_that_is_slow_holds_nothing_back_from_another),
        (group_bugs.BroadcastsAreAGroup, Held.test_nothing_comes_again),
        (group_bugs.BroadcastsOfAConnectionAreOne, Held.test_two_subscriptions_of_one_connection_both_get_all),
        (group_bugs.BroadcastsSeeThePast, Held.test_it_gets_nothing_from_before),
        # delay
        (bugs.ForgetsDelays, Held.test_a_delayed_message_comes_when_its_time_has_passed_and_holds_up_no_other),
        (bugs.ForgetsDelays, Held.test_delayed_messages_come_by_their_times),
        (bugs.DelaysAllBehindIt, Held.test_a_delayed_message_comes_when_its_time_has_passed_and_holds_up_no_other),
        # the server ends
        (
            bugs.WaitsForEver,
            Held.test_all_that_waits_is_told_when_the_server_stops_and_another_connection_works_when_it_is_back,
        ),
        (
            bugs.WaitsForEver,
            Held.test_all_that_waits_is_told_when_the_server_is_killed_and_another_connection_works_when_it_is_back,
        ),
        (
            group_bugs.MendsItself,
            Held.test_all_that_waits_is_told_when_the_server_is_killed_and_another_connection_works_when_it_is_back,
        ),
        (
            group_bugs.OpensWithoutAServer,
            Held.test_all_that_waits_is_told_when_the_server_stops_and_another_connection_works_when_it_is_back,
        ),
        (
            group_bugs.ConfirmsWhatItCannotSend,
            Held.test_all_that_waits_is_told_when_the_server_is_killed_and_another_connection_works_when_it_is_back,
        ),
        (
            group_bugs.ForgetsMessagesWithItsServer,
            Held.test_what_was_confirmed_accepted_and_held_is_as_it_was_after_a_restart,
        ),
        (
            group_bugs.ForgetsGroupsWithItsServer,
            Held.test_what_was_confirmed_accepted_and_held_is_as_it_was_after_a_restart,
        ),
        (
            group_bugs.ForgetsMessagesWithItsServer,
            Held.test_what_was_confirmed_accepted_and_held_is_as_it_was_after_the_server_was_killed,
        ),
        (
            group_bugs.ForgetsWhatWasHeldWithItsServer,
            Held.test_what_was_confirmed_accepted_and_held_is_as_it_was_after_the_server_was_killed,
        ),
        (
            bugs.AcceptsWhenTheConnectionIsClosed,
            Held.test_what_was_confirmed_accepted_and_held_is_as_it_was_after_the_server_was_killed,
        ),
        (
            group_bugs.ConfirmsBeforeStoring,
            Held.test_a_server_that_is_killed_while_it_is_published_to_loses_nothing_confirmed,
        ),
        (
            group_bugs.LosesTheNewestWithItsServer,
            Held.test_a_server_that_is_killed_while_it_is_published_to_loses_nothing_confirmed,
        ),
    ],
)
def test_a_planted_bug_is_found(
    bug: type[Double], test: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    _find(Held, bug, test, monkeypatch)


@pytest.mark.parametrize(
    ("bug", "test"),
    [
        (group_bugs.SpreadsAKey, HeldAssigned.test_all_messages_of_a_key_are_in_one_partition_and_keys_are_spread),
        (group_bugs.GoesOnReceivingWhatIsRevoked, HeldAssigned.test_members_have_partitions_of_their_own),
        (group_bugs.EveryMemberAGroup, HeldAssigned.test_members_have_partitions_of_their_own),
        (
            group_bugs.TakesWithoutAWord,
            HeldAssigned.test_partitions_go_to_a_member_that_joins_after_what_was_received_of_them_is_finished,
        ),
        (
            group_bugs.TakesAtOnce,
            HeldAssigned.test_partitions_go_to_a_member_that_joins_after_what_was_received_of_them_is_finished,
        ),
        (
            group_bugs.KeepsThePartitionsOfWhoLeft,
            HeldAssigned.test_the_partitions_of_a_member_that_leaves_go_to_those_that_stay,
        ),
        (
            bugs.ForgetsToGiveBack,
            HeldAssigned.test_members_come_and_go_and_nothing_is_lost_and_each_key_keeps_its_order,
        ),
        (
            bugs.ComesAgainBehindWhatIsNew,
            HeldAssigned.test_members_come_and_go_and_nothing_is_lost_and_each_key_keeps_its_order,
        ),
        (
            group_bugs.GoesOnReceivingWhatIsRevoked,
            HeldAssigned.test_a_partition_that_is_revoked_is_not_received_any_more,
        ),
        (
            group_bugs.KeepsReceivingWhatWentToAnother,
            HeldAssigned.test_a_partition_that_is_revoked_is_not_received_any_more,
        ),
        (group_bugs.LosesThePlaceOfTheSlow, HeldAssigned.test_a_member_that_is_slow_keeps_its_place),
        (group_bugs.EveryMemberAGroup, HeldAssigned.test_members_share_without_doubles),
    ],
)
def test_a_planted_bug_of_one_that_assigns_is_found(
    bug: type[Double], test: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    _find(HeldAssigned, bug, test, monkeypatch)


class HeldInRanges(Held, CumulativeContract):
    pass


@pytest.mark.parametrize(
    ("bug", "test"),
    [
        (group_bugs.AcceptsOneOfARange, HeldInRanges.test_accepting_one_accepts_all_before_it),
        (group_bugs.RequeuesOneOfARange, HeldInRanges.test_requeueing_one_requeues_all_after_it),
        (
            group_bugs.RequeuesTheWholeRange,
            HeldInRanges.test_what_was_accepted_before_stays_accepted_when_one_behind_is_requeued,
        ),
    ],
)
def test_a_planted_bug_of_one_that_is_cumulative_is_found(
    bug: type[Double], test: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    _find(HeldInRanges, bug, test, monkeypatch, right=group_bugs.AcceptsAndRequeuesInRanges)


@pytest.mark.parametrize("name", sorted(name for name in dir(GroupsContract) if name.startswith("test_")))
def test_one_that_is_cumulative_can_keep_what_is_said_of_groups(name: str) -> None:
    getattr(HeldInRanges(group_bugs.AcceptsAndRequeuesInRanges), name)()


def test_a_planted_bug_of_one_that_does_not_share_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    test = Held.test_where_members_do_not_share_the_newest_takes_the_place_of_the_one_before
    _find(Held, group_bugs.TakesThePlaceAndDoesNotTell, test, monkeypatch, right=group_bugs.TakesThePlace)


class HeldInAFile(ProcessesContract):
    """As the one above, for what other processes reach."""

    def __init__(self, kind: type[SqliteBroker], file: Path) -> None:
        self.kind = kind
        self.url = f"sqlite:///{file}"

    def broker(self, **parameters: str) -> SqliteBroker:
        return self.kind(place(self.url))


@pytest.mark.slow
@pytest.mark.parametrize(
    "test",
    [
        HeldInAFile.test_what_a_process_held_when_it_was_killed_comes_again_in_order_and_before_what_is_new,
        HeldInAFile.test_what_a_process_held_when_it_was_killed_comes_to_a_member_that_waits,
    ],
)
def test_a_process_that_accepts_what_it_only_received_is_found(
    test: Callable[[Any], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    test(HeldInAFile(SqliteBroker, tmp_path / "right.db"))
    monkeypatch.setattr("ensue.testing.contracts.channels.bench.LIMIT_SECONDS", 5)
    with pytest.raises(pytest.fail.Exception, match="waited for message"):
        test(HeldInAFile(group_bugs.AcceptsOnReceiveInAFile, tmp_path / "wrong.db"))


def test_every_test_of_the_contract_is_known_to_find_a_bug() -> None:
    here = Path(__file__).read_text()
    kinds = (HeldAssigned, HeldInRanges, HeldInAFile)
    names = {name for kind in kinds for name in dir(kind) if name.startswith("test_")}
    assert len(names) > 70
    assert [name for name in sorted(names) if name not in here] == []


def _find(
    held: type[Held],
    bug: type[Double],
    test: Callable[[Any], None],
    monkeypatch: pytest.MonkeyPatch,
    *,
    right: type[Double] = Double,
) -> None:
    monkeypatch.setattr("ensue.testing.contracts.channels.kinds.DELAY_SECONDS", 0.1)
    test(held(right))
    monkeypatch.setattr("ensue.testing.contracts.channels.bench.LIMIT_SECONDS", 0.6)
    with pytest.raises((AssertionError, pytest.fail.Exception, EnsueError)):
        test(held(bug))


def test_an_adapter_that_leaves_out_the_contract_of_a_capability_fails() -> None:
    class NotAssigned(Held):
        query = HeldAssigned.query

    with pytest.raises(AssertionError, match="inherit AssignsContract if, and only if"):
        NotAssigned(Double).test_it_is_held_to_all_that_it_declares()


def test_an_adapter_that_is_held_to_what_it_does_not_declare_fails() -> None:
    class SaysTooMuch(HeldAssigned):
        query = Held.query

    with pytest.raises(AssertionError, match="inherit AssignsContract if, and only if"):
        SaysTooMuch(Double).test_it_is_held_to_all_that_it_declares()

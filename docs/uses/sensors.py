"""Sensors: readings from a channel into patterns and windows, by their own time; silence is noticed; a table of devices."""

import asyncio
from datetime import UTC, datetime
from typing import Self

from ensue import App, Channel, Event, Service, View, minutes, seconds
from ensue.patterns import Late, Pattern, Window, absent, count, largest, one, several, total


class Reading(Event, key="sensor", time="at"):
    sensor: str
    at: datetime
    celsius: float


class SensorSilent(Event, key="sensor"):
    sensor: str
    last: float


class Overheating(Event, key="sensor"):
    sensor: str
    celsius: float


class MinutePassed(Event, key="sensor"):
    sensor: str
    mean: float
    high: float


class Silence(Pattern, within=minutes(15)):
    last = one(Reading)
    next = absent(Reading)


class Hot(Pattern, within=minutes(5), disorder=seconds(30)):
    readings = several(Reading, lambda reading: reading.celsius > 90, times=3, inner="strict")


class PerMinute(Window, size=minutes(1), lateness=minutes(2)):
    readings = count(Reading)
    sum = total(Reading, lambda reading: reading.celsius)
    high = largest(Reading, lambda reading: reading.celsius)


telemetry = Channel("telemetry", Reading)  # where it is: ENSUE_CHANNEL_TELEMETRY=mqtt://…
plant = Service("plant")


@plant.on
def silent(match: Silence) -> SensorSilent:
    return SensorSilent(sensor=match.key, last=match.last.celsius)


@plant.on
def hot(match: Hot) -> Overheating:
    return Overheating(sensor=match.key, celsius=match.readings[-1].celsius)


@plant.on
def minute(window: PerMinute) -> MinutePassed:
    return MinutePassed(sensor=window.key, mean=window.sum / window.readings, high=window.high)


@plant.on
def late(reading: Late[Reading]) -> None:
    print(f"{reading.event.sensor} is {reading.by} late")


@plant.view
class Device(View, key="sensor"):
    sensor: str
    state: str = "ok"
    mean: float = 0.0

    def evolve(self, event: MinutePassed | SensorSilent | Overheating) -> Self:
        match event:
            case MinutePassed():
                self.state, self.mean = "ok", event.mean
            case SensorSilent():
                self.state = "silent"
            case Overheating():
                self.state = "hot"
        return self


iot = App("iot", inbox=[telemetry])  # in the log before anybody looks: what is found there is found once
iot.include(plant)
gateway = App("gateway", outbox=[telemetry])


async def main() -> None:
    async with iot, gateway:
        began = datetime(2026, 1, 1, 12, tzinfo=UTC)
        for minute, celsius in ((0, 91.0), (2, 97.5), (1.75, 95.0), (5, 20.0)):  # not in their order
            await gateway.publish(Reading(sensor="s1", at=began + minutes(minute), celsius=celsius))
        async for recorded in iot.log.read(Overheating, follow=True):
            print(recorded.event)
            break


if __name__ == "__main__":
    asyncio.run(main())

"""A small application as a file, run by the real program in processes of its own, and told what to do by lines and signals."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

__all__ = ["APP", "PUBLISH", "publish", "says"]

APP = """
import asyncio
from datetime import timedelta
from ensue import App, Event, Retry

class Baked(Event, key="bread"):
    bread: str

class Sold(Event, key="bread"):
    bread: str

app = App("bakery", retry=Retry(attempts=2, first=timedelta()))

@app.on
async def sell(baked: Baked) -> Sold:
    if baked.bread == "burnt":
        raise ValueError("nobody \\x1b[31mbuys it")
    if baked.bread == "slow":
        print("begun", flush=True)
        await asyncio.sleep(0.5)
    return Sold(bread=baked.bread)
"""
PUBLISH = """
import asyncio, sys
from app import Baked, app

async def main():
    async with app.connected():
        await app.publish(Baked(bread=sys.argv[1]))

asyncio.run(main())
"""


def says(process: subprocess.Popen[str], words: str) -> list[str]:
    """Lines of stderr up to the one that holds the words."""
    assert process.stderr is not None
    lines: list[str] = []
    while not lines or words not in lines[-1]:
        line = process.stderr.readline()
        assert line, f"it ended without saying {words!r}: {lines}"
        lines.append(line)
    return lines


def publish(bakery: Path, bread: str) -> None:
    subprocess.run([sys.executable, "publish.py", bread], cwd=bakery, check=True, timeout=30)

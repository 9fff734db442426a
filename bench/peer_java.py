"""Flink CEP and Esper: fetched with Maven into the user's cache, and bench/java compiled for them. Each measurement is a JVM of its own."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

__all__ = ["HEAP", "command"]

JAVA = Path(__file__).parent / "java"
HEAP = "4g"


def command(main: str, *arguments: str) -> list[str]:
    """How to run `bench.MAIN` with these arguments; what it needs is there then. Ends the program without Java or Maven."""
    jars, classes = _jars(), _classes()
    path = f"{classes}:{jars}/*"
    return ["java", f"-Xms{HEAP}", f"-Xmx{HEAP}", "-XX:+UseParallelGC", "-cp", path, f"bench.{main}", *arguments]


def _cache(name: str) -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "ensue" / "bench" / name


def _jars() -> Path:
    """The peers, by a hash of what Maven is asked for. Maven checks the sums of all files."""
    pom = JAVA / "pom.xml"
    place = _cache("jars-" + hashlib.sha256(pom.read_bytes()).hexdigest()[:16])
    if place.exists():
        return place
    if not shutil.which("mvn") or not shutil.which("javac"):
        sys.exit("Flink and Esper need Java 17 and Maven; on Debian: apt install openjdk-17-jdk-headless maven")
    print("Fetching Flink and Esper with Maven ...", file=sys.stderr)
    work = _beside(place)
    goal = ["dependency:copy-dependencies", f"-DoutputDirectory={work}", "-DincludeScope=runtime"]
    subprocess.run(["mvn", "--batch-mode", "--quiet", "--strict-checksums", "--file", pom, *goal], check=True)
    work.rename(place)  # at once: another run may look for it
    return place


def _classes() -> Path:
    """Our programs for them, by a hash of the sources."""
    sources = sorted((JAVA / "src").rglob("*.java"))
    named = hashlib.sha256(b"".join(source.read_bytes() for source in (JAVA / "pom.xml", *sources)))
    place = _cache("classes-" + named.hexdigest()[:16])
    if not place.exists():
        work = _beside(place)
        subprocess.run(["javac", "-nowarn", "-cp", f"{_jars()}/*", "-d", work, *sources], check=True)
        work.rename(place)
    return place


def _beside(place: Path) -> Path:
    place.parent.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix=".new-", dir=place.parent))

"""What Flink CEP itself answers, asked of its automaton by `Answers.java`.

python -m tests.patterns.flink_cep.making        # writes answers.json anew
"""

from __future__ import annotations

import json
import subprocess
from hashlib import blake2b
from pathlib import Path
from random import Random

from tests.patterns.flink_cep.asking import Asking, drawn, in_words
from tests.servers import flink

__all__ = ["KEPT", "SEEDS", "asked", "digest", "kept_answers", "refused"]

SEEDS = range(300)
KEPT = Path(__file__).with_name("answers.json")
PROGRAM = Path(__file__).with_name("Answers.java")


def digest(asking: Asking) -> str:
    """Changes when the pattern or the stream does."""
    return blake2b("\n".join(in_words(asking)).encode(), digest_size=4).hexdigest()


def asked(seeds: range = SEEDS) -> dict[int, list[str]]:
    """The answers of the Flink that is installed."""
    lines = [line for seed in seeds for line in in_words(drawn(Random(seed)))]
    told = subprocess.run(
        ["java", "-XX:TieredStopAtLevel=1", "-cp", flink.class_path(), str(PROGRAM)],
        input="\n".join(lines) + "\n",
        text=True,
        capture_output=True,
        timeout=120,
        check=True,
    ).stdout.splitlines()
    answers: list[list[str]] = [[]]
    for line in told:
        if line == "done":
            answers.append([])
        else:
            answers[-1].append(line)
    return dict(zip(seeds, answers, strict=False))


def refused(answer: list[str]) -> bool:
    """Flink does not have this pattern."""
    return bool(answer) and answer[-1].startswith("refused")


def kept_answers() -> dict[int, tuple[str, list[str]]]:
    """By seed: the digest of what was asked, and the answer."""
    kept: dict[str, tuple[str, list[str]]] = json.loads(KEPT.read_text())
    return {int(seed): (of, answer) for seed, (of, answer) in kept.items()}


if __name__ == "__main__":
    kept = {
        seed: (digest(drawn(Random(seed))), answer)
        for seed, answer in asked().items()
        if not refused(answer) and len(answer) <= 15  # longer ones say nothing more, and make the file large
    }
    rows = ",\n".join(f"{json.dumps(str(seed))}: {json.dumps(one)}" for seed, one in kept.items())
    KEPT.write_text(f"{{\n{rows}\n}}\n")
    print(f"{len(kept)} answers")

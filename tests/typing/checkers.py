"""Runs a type checker once over every public example, right and wrong, and says what it found on which line."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import msgspec

__all__ = ["ACCEPTED", "ROOT", "WRONG", "Findings", "marked", "mypy", "program_of_readme", "pyright", "revealed_pairs"]

ROOT = Path(__file__).resolve().parents[2]
USES = ROOT / "docs" / "uses"
ACCEPTED = [*sorted(USES.glob("*.py")), *sorted((ROOT / "tests/typing/accepted").glob("*.py"))]
WRONG = sorted((ROOT / "tests/typing/wrong").glob("*.py"))
LIMIT_SECONDS = 120
_MARK = re.compile(r"# wrong(?: \((\w+)\))?: .")


class Findings(msgspec.Struct, frozen=True):
    """What a checker said: errors by file and line, and what `reveal_type` told, by line of reveal.py."""

    errors: Mapping[Path, Mapping[int, str]]
    revealed: Mapping[int, str]


def marked(file: Path, checker: str) -> set[int]:
    """The lines that this checker must call wrong: `# wrong: why`, or `# wrong (pyright): why` for one of them."""
    found = {
        number: match.group(1)
        for number, line in enumerate(file.read_text().splitlines(), 1)
        if (match := _MARK.search(line))
    }
    return {number for number, only in found.items() if only in (None, checker)}


def program_of_readme(folder: Path) -> Path:
    """The README's programs, which go on from one another, as one file."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert blocks, "the README shows no program"
    file = folder / "readme.py"
    file.write_text("\n\n".join(blocks))
    return file


def revealed_pairs(findings: Findings) -> list[tuple[str, str]]:
    """What the undecorated and the decorated function of each pair in reveal.py were revealed as."""
    texts = [text for _, text in sorted(findings.revealed.items())]
    assert texts
    assert len(texts) % 2 == 0
    return list(zip(texts[::2], texts[1::2], strict=True))


def mypy(folder: Path) -> Findings:
    """Strict mypy, without any other setting."""
    files = [*ACCEPTED, *WRONG, program_of_readme(folder)]
    settings = folder / "mypy.ini"
    settings.write_text("[mypy]\nstrict = True\npython_version = 3.11\n")
    cache = ROOT / ".mypy_cache" / "typing"
    command = [sys.executable, "-m", "mypy", "--config-file", str(settings), "--cache-dir", str(cache), "-O", "json"]
    environment = {**os.environ, "MYPYPATH": f"{ROOT}:{USES}"}
    result = subprocess.run(
        [*command, *map(str, files)], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=LIMIT_SECONDS
    )
    assert result.returncode == 1, f"mypy could not run: {result.stdout[-2000:]}{result.stderr}"
    errors: dict[Path, dict[int, str]] = defaultdict(dict)
    revealed: dict[int, str] = {}
    for line in result.stdout.splitlines():
        found = json.loads(line)
        if "Revealed type" in found["message"]:
            revealed[found["line"]] = found["message"]
        elif found["severity"] == "error":
            errors[(ROOT / found["file"]).resolve()][found["line"]] = found["message"]
    return Findings(errors, revealed)


def pyright(folder: Path) -> Findings:
    """Strict pyright, without any other setting. It takes only relative paths from its settings."""
    program_of_readme(folder)
    base = Path(os.path.relpath(ROOT, folder))
    settings = {
        "include": [
            str(base / "docs/uses"),
            str(base / "tests/typing/accepted"),
            str(base / "tests/typing/wrong"),
            ".",
        ],
        "extraPaths": [str(base), str(base / "docs/uses")],
        "typeCheckingMode": "strict",
        "pythonVersion": "3.11",
    }
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))
    command = [
        sys.executable,
        "-m",
        "pyright",
        "--project",
        str(folder),
        "--pythonpath",
        sys.executable,
        "--outputjson",
    ]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_SECONDS)
    assert result.stdout.startswith("{"), f"pyright could not run: {result.stdout[-2000:]}{result.stderr}"
    errors: dict[Path, dict[int, str]] = defaultdict(dict)
    revealed: dict[int, str] = {}
    report = json.loads(result.stdout)
    assert report["summary"]["filesAnalyzed"] >= len(ACCEPTED) + len(WRONG) + 1, report["summary"]
    for found in report["generalDiagnostics"]:
        number = found["range"]["start"]["line"] + 1
        if found["severity"] == "information":
            revealed[number] = found["message"].partition(" is ")[2]
        else:
            errors[Path(found["file"]).resolve()][number] = found["message"]
    return Findings(errors, revealed)

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

__all__ = ["ACCEPTED", "ROOT", "WRONG", "Findings", "marked", "mypy", "programs_of_papers", "pyright", "revealed_pairs"]

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


def programs_of_papers(folder: Path) -> list[Path]:
    """The programs that the README and the pages of docs/ show, each page's blocks as one file: they go on from one
    another."""
    files: list[Path] = []
    for paper in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        blocks = re.findall(r"^```python\n(.*?)^```", paper.read_text(), re.DOTALL | re.MULTILINE)
        if blocks:
            # A page may be called as one of the programs beside it is.
            files.append(folder / ("readme.py" if paper.stem == "README" else f"page_{paper.stem}.py"))
            files[-1].write_text("\n\n".join(blocks))
    assert (folder / "readme.py") in files, "the README shows no program"
    return files


def revealed_pairs(findings: Findings) -> list[tuple[str, str]]:
    """What the undecorated and the decorated function of each pair in reveal.py were revealed as."""
    texts = [text for _, text in sorted(findings.revealed.items())]
    assert texts
    assert len(texts) % 2 == 0
    return list(zip(texts[::2], texts[1::2], strict=True))


def mypy(folder: Path) -> Findings:
    """Strict mypy, without any other setting."""
    files = [*ACCEPTED, *WRONG, *programs_of_papers(folder)]
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
    shown = programs_of_papers(folder)
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
    assert report["summary"]["filesAnalyzed"] >= len(ACCEPTED) + len(WRONG) + len(shown), report["summary"]
    for found in report["generalDiagnostics"]:
        number = found["range"]["start"]["line"] + 1
        if found["severity"] == "information":
            revealed[number] = found["message"].partition(" is ")[2]
        else:
            errors[Path(found["file"]).resolve()][number] = found["message"]
    return Findings(errors, revealed)

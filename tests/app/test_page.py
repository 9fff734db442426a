"""What docs/applications.md and docs/channels.md show, runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from ensue.app import Settings

DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "applications.md"


def program(page: Path) -> str:
    """The Python of the page, each line at its own number, so that an error points into the page."""
    lines, inside = list[str](), False
    for line in page.read_text().splitlines():
        inside = inside and line != "```"
        lines.append(line if inside else "")
        inside = inside or line == "```python"
    return "\n".join(lines)


@pytest.mark.slow
@pytest.mark.parametrize("page", ["applications.md", "channels.md"])
def test_every_block_of_the_page_runs(page: str, tmp_path: Path) -> None:
    (tmp_path / "page.py").write_text(program(DOCS / page))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ENSUE_")}
    done = subprocess.run(
        [sys.executable, "-W", "error", "page.py"],
        cwd=tmp_path,
        env={**environment, "PYTHONPATH": str(DOCS.parent), "ENSUE_CHANNELS": "memory:"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


def test_the_page_has_a_row_for_every_setting_with_its_default() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \| `?([^|`]+?)`? \|", PAGE.read_text(), re.MULTILINE)
    defaults = {"url": "sqlite:///NAME.db"} | {
        field.name: f"{field.default:g}" if isinstance(field.default, float) else str(field.default)
        for field in msgspec.structs.fields(Settings)
        if field.name != "url"
    }
    assert {name: default for name, _, default in rows} == defaults
    assert [variable for _, variable, _ in rows] == [f"ENSUE_{name.upper()}" for name in defaults]

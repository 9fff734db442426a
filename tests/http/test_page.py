"""What docs/http.md shows is what happens: its program is served, and its commands are run."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.http.serving import process
from tests.typing.checkers import ROOT

PAGE = (ROOT / "docs/http.md").read_text()


def programs(folder: Path) -> list[str]:
    """Modules that hold the page's program as far as it defines `web`, and then all of it."""
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    first = next(number for number, block in enumerate(blocks, 1) if "web = asgi" in block)
    for name, block in (("bank", blocks[:first]), ("whole", blocks)):
        (folder / f"{name}.py").write_text("\n\n".join(block))
    return ["bank", "whole"]


def shown() -> list[tuple[str, list[str]]]:
    """Each command with what is shown of its output."""
    found: list[tuple[str, list[str]]] = []
    for block in re.findall(r"^```console\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, *output = part.splitlines()
            found.append((command, output))
    return found


@pytest.mark.slow
def test_every_command_of_the_page_prints_what_is_shown(tmp_path: Path) -> None:
    bank, whole = programs(tmp_path)
    commands = shown()
    assert len(commands) > 8
    for module, part in (
        (bank, [one for one in commands if "who-asks" not in one[0]]),
        (whole, [one for one in commands if "who-asks" in one[0]]),
    ):
        assert part
        with process(
            ["-m", "uvicorn", f"{module}:web", "--port", "0"], tmp_path, PYTHONPATH=f"{ROOT}:{tmp_path}"
        ) as client:
            for command, output in part:
                here = command.replace("localhost:8000", client.base_url.netloc.decode())
                done = subprocess.run(shlex.split(here), capture_output=True, text=True, timeout=60)
                pattern = ".*".join(re.escape(line).replace("…", ".*") for line in output)
                assert re.search(pattern, done.stdout, re.DOTALL), f"{command}\n{done.stdout}"


@pytest.mark.parametrize("outer", ["api", "site"])
def test_the_applications_of_the_page_that_mount_it_serve_it(outer: str, tmp_path: Path) -> None:
    *_, whole = programs(tmp_path)
    with process(
        ["-m", "uvicorn", f"{whole}:{outer}", "--port", "0"], tmp_path, PYTHONPATH=f"{ROOT}:{tmp_path}"
    ) as client:
        assert client.get("/bank/who-asks").status_code == 401
        known = {"Authorization": "Bearer not-a-real-token"}
        assert client.get("/bank/balance-of?account_id=a1", headers=known).json() == "0"

"""The gates themselves: a failing check stops what must not land."""

from __future__ import annotations

import os
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.tidy.repository import PACKAGE, ROOT


@pytest.mark.parametrize("failing", ["check", "test", "none"])
def test_the_gate_fails_when_either_of_its_two_commands_fails(failing: str, tmp_path: Path) -> None:
    make, identity = tmp_path / "make", tmp_path / "id"
    make.write_text(f'#!/bin/sh\necho "ran $1 requiring=$ENSUE_REQUIRE_SERVICES"\n[ "$1" != {failing} ]\n')
    identity.write_text("#!/bin/sh\necho 1000\n")  # not root: a test installs nothing
    for program in (make, identity):
        program.chmod(0o755)
    result = subprocess.run(
        [ROOT / ".ci/run"],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (result.returncode == 0) == (failing == "none")
    assert "ran check requiring=1" in result.stdout
    assert ("ran test requiring=1" in result.stdout) == (failing != "check")


def test_the_checkers_are_strict() -> None:
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    assert tools["mypy"]["strict"] is True
    assert tools["pyright"]["typeCheckingMode"] == "strict"
    assert {"ensue", "tests"} <= set(tools["mypy"]["files"])
    assert {"ensue", "tests"} <= set(tools["pyright"]["include"])
    assert tools["pytest"]["ini_options"]["filterwarnings"] == ["error"]


def test_the_contract_lists_every_package() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(contract for contract in contracts if contract["type"] == "layers")
    listed = {name.strip() for layer in layers["layers"] for name in layer.split("|")}
    there = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert layers["exhaustive"] is True
    assert listed == there - {"__init__"}

"""What a user's type checker says: it accepts every example in the documentation and sees what is wrong in the wrong ones.

Each checker runs once, over all files; `# wrong: …` marks the lines it must complain about, and it may about no other.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.typing.checkers import ACCEPTED, WRONG, Findings, marked, mypy, programs_of_papers, pyright, revealed_pairs


@pytest.mark.slow
@pytest.mark.parametrize("checker", [mypy, pyright])
def test_strict_checkers_accept_right_programs_and_reject_each_wrong_line(
    checker: Callable[[Path], Findings], tmp_path: Path
) -> None:
    findings = checker(tmp_path)
    problems: list[str] = []
    for file in (*ACCEPTED, *programs_of_papers(tmp_path)):
        problems += [f"{file.name}:{number} refused: {text}" for number, text in findings.errors.get(file, {}).items()]
    for file in WRONG:
        found, expected = findings.errors.get(file, {}), marked(file, checker.__name__)
        problems += [f"{file.name}:{number} accepted, though marked as wrong" for number in expected - found.keys()]
        problems += [f"{file.name}:{number} refused: {found[number]}" for number in found.keys() - expected]
    problems += [f"not alike: {given} / {back}" for given, back in revealed_pairs(findings) if given != back]
    assert not problems, "\n".join(problems)


def test_no_example_needs_an_ignore(tmp_path: Path) -> None:
    for file in (*ACCEPTED, *WRONG, *programs_of_papers(tmp_path)):
        text = file.read_text()
        assert "type: ignore" not in text, file
        assert "pyright:" not in text.replace("wrong (pyright):", ""), file
        assert not re.search(r"\bcast\(", text), file

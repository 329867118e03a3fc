"""Pages of documentation as programs: their fenced blocks, and what it takes to run them.

    <!-- file: clicks.py -->       the next block is written to this file, in the page's own folder
    <!-- not run: why -->          the next block is only read
    ```python                      runs in this process; all blocks of a page share one module; its tests are called
    ```console                     `$ command` lines run in a shell, and the lines below each are what it prints

In what a command prints, a line `...` stands for any number of lines.  Standard error is not looked at.  Blocks of
other languages are only read.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).parent.parent.parent
LIMIT = 60
"""Seconds that one command may take."""

_FENCE = re.compile(r"(?P<indent> *)```(?P<language>\w*)\s*$")
_COMMENT = re.compile(r"<!--\s*(?P<what>file|not run):\s*(?P<said>.+?)\s*-->\s*$")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"#+ +(.*)$")


@dataclass(frozen=True)
class Block:
    """One fenced block: where its first line stands, and what the comment before it says."""

    page: Path
    line: int
    language: str
    text: str
    file: str = ""
    not_run: str = ""

    @property
    def place(self) -> str:
        """The page and the line, as an editor finds it."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    found: list[Block] = []
    said: dict[str, str] = {}
    lines = enumerate(page.read_text(encoding="utf-8").splitlines(), 1)
    for number, line in lines:
        if comment := _COMMENT.match(line):
            said = {comment["what"]: comment["said"]}
        elif fence := _FENCE.match(line):
            body = list(_body(lines, fence["indent"]))
            text = "".join(each + "\n" for each in body)
            found.append(
                Block(page, number + 1, fence["language"], text, said.get("file", ""), said.get("not run", ""))
            )
            said = {}
        elif line.strip():
            said = {}
    return found


def _body(lines: Iterator[tuple[int, str]], indent: str) -> Iterator[str]:
    for _, line in lines:
        if line.strip() == "```":
            return
        yield line.removeprefix(indent)


def links(page: Path) -> list[str]:
    """The targets of the links of a page that lead to files and headings of this repository."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return [target for target in _LINK.findall(text) if "://" not in target]


def anchors(page: Path) -> set[str]:
    """What the headings of a page may be linked as, in the way of GitHub."""
    headings = filter(None, map(_HEADING.match, page.read_text(encoding="utf-8").splitlines()))
    return {
        re.sub(r"[^\w\- ]", "", heading[1].replace("`", "")).strip().lower().replace(" ", "-") for heading in headings
    }


def run_page(page: Path, folder: Path) -> dict[str, Any]:
    """Do all that a page says, with its files and commands in a folder; what its module then holds."""
    name = f"page_{page.stem}"
    module = sys.modules[name] = ModuleType(name)  # state that holds a class finds it by its module
    try:
        for block in blocks(page):
            if block.file:
                (folder / block.file).write_text(block.text, encoding="utf-8")
            elif block.language == "python" and not block.not_run:
                _execute(block, module)
            elif block.language == "console" and not block.not_run:
                _converse(block, folder)
    finally:
        del sys.modules[name]
    return vars(module)


def _execute(block: Block, module: ModuleType) -> None:
    before = set(vars(module))
    code = compile("\n" * (block.line - 1) + block.text, str(block.page), "exec")
    exec(code, vars(module))  # noqa: S102 - the documentation of this repository
    for name in [name for name in vars(module) if name not in before and name.startswith("test_")]:
        test = vars(module)[name]
        if not test.__code__.co_argcount:  # those with fixtures are pytest's to call
            test()


def _converse(block: Block, folder: Path) -> None:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    for command, expected in _exchanges(block):
        done = subprocess.run(  # noqa: S602 - a shell, as the reader has one
            command,
            shell=True,
            cwd=folder,
            env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "COLUMNS": "120"},
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )
        assert _alike(done.stdout.splitlines(), expected), (
            f"{block.place}: $ {command}\nprints\n{done.stdout}and not\n" + "\n".join(expected) + f"\n{done.stderr}"
        )


def _exchanges(block: Block) -> Iterator[tuple[str, list[str]]]:
    """Commands with the lines below them; a command ending with a backslash goes on in the next line."""
    command, expected = "", []
    goes_on = False
    for line in block.text.splitlines():
        if goes_on:
            command += "\n" + line
        elif line.startswith("$ "):
            if command:
                yield command, expected
            command, expected = line[2:], []
        else:
            expected.append(line)
        goes_on = (goes_on or line.startswith("$ ")) and line.endswith("\\")
    if command:
        yield command, expected


def _alike(printed: list[str], expected: list[str]) -> bool:
    """Whether lines are as expected, where `...` is any number of them."""
    if "..." not in expected:
        return printed == expected
    cut = expected.index("...")
    head, rest = expected[:cut], expected[cut + 1 :]
    if printed[:cut] != head:
        return False
    return any(_alike(printed[start:], rest) for start in range(cut, len(printed) + 1))

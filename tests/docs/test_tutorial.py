"""The tutorial works as it stands: a reader who copies its files and types its commands sees what it shows."""

import subprocess
import sys
from pathlib import Path

from tests.docs.blocks import LIMIT, ROOT, blocks, run_page

PAGE = ROOT / "docs" / "tutorial.md"


def test_the_tutorial_shows_what_happens(tmp_path: Path) -> None:
    """Its files, commands, outputs and tests, in the order in which they are read."""
    run_page(PAGE, tmp_path)


def test_its_files_have_the_types_they_should(tmp_path: Path) -> None:
    """What the reader is given to copy passes mypy --strict."""
    files = [tmp_path / block.file for block in blocks(PAGE) if block.language == "python"]
    for block in blocks(PAGE):
        if block.file:
            (tmp_path / block.file).write_text(block.text, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file=", "--strict", "--no-error-summary", *map(str, files)],
        cwd=tmp_path,
        env={"MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.stdout == ""

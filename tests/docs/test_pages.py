"""What the documentation says is so: its code runs, its commands print what it shows, its links lead somewhere."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from streamproc.core.fuse import code
from streamproc.core.plan import REASONS, build
from tests.docs.blocks import LIMIT, ROOT, anchors, blocks, links, run_page

DOCS = ROOT / "docs"
DECISIONS = DOCS / "adr"
OWN = ("tutorial.md",)
"""Pages that another module runs."""

PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
RUNNABLE = [page for page in PAGES if page.name not in OWN]


def name(page: Path) -> str:
    """A page as it is called in a test's name."""
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", RUNNABLE, ids=name)
def test_a_page_does_what_it_says(page: Path, tmp_path: Path) -> None:
    """Code runs, tests in it pass, and commands print what stands below them."""
    run_page(page, tmp_path)
    if tests := sorted(tmp_path.glob("test_*.py")):
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *map(str, tests)],
            cwd=tmp_path,
            env={"PYTHONPATH": f"{tmp_path}:{ROOT}", "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_demo_ends_as_shown(tmp_path: Path) -> None:
    """What README.md shows of `make demo` is what it counts today; its pace is that of some machine."""
    (demo,) = re.findall(r"^DEMO \?= (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    done = subprocess.run(  # noqa: S602 - as make does
        f"{sys.executable} -m streamproc run {demo.replace('demo.sqlite', str(tmp_path / 'demo.sqlite'))} --no-http",
        shell=True,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=True,
    )
    counted = done.stdout.splitlines()[-1].partition(" in ")[0]
    assert counted.startswith("done: read ")
    assert counted in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    """Every link to a file has a file, and every link to a heading a heading."""
    lost = []
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            lost.append(link)
    assert lost == []


def test_commands_of_make_exist() -> None:
    """Whoever is told to say `make something` finds that in the Makefile."""
    known = set(re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[0].split())
    told = {
        command
        for page in PAGES
        for command in re.findall(r"(?:^    |`|\$ )make ([a-z]+)", page.read_text(), re.MULTILINE)
    }
    assert told >= {"demo", "test"}
    assert told - known == set()


def test_every_decision_is_in_the_index() -> None:
    """The index has each record once, by number, with the title it bears; numbers have no gaps."""
    found = {}
    for page in sorted(DECISIONS.glob("[0-9]*.md")):
        title = re.match(r"# (\d{4})\. (.+)", page.read_text())
        assert title, f"{page.name} begins with no '# NNNN. Title'"
        assert page.name.startswith(title[1])
        found[f"[{title[1]}]({page.name})"] = title[2]
    rows = re.findall(
        r"^\| (\[\d{4}\]\([^)]*\)) \| (.+?) \| (\w+) \|$", (DECISIONS / "README.md").read_text(), re.MULTILINE
    )
    assert [(number, title) for number, title, _ in rows] == list(found.items())
    assert [number[1:5] for number in found] == [f"{n:04}" for n in range(1, len(found) + 1)]


def test_the_generated_loop_is_current(tmp_path: Path) -> None:
    """The loop that the page on architecture shows is the one that its topology has."""
    page = DOCS / "architecture.md"
    (shown,) = [block.text for block in blocks(page) if block.text.startswith("def loop(")]
    current = code(build(run_page(page, tmp_path)["shown"].graph()))
    assert shown == current, f"put this loop into docs/architecture.md:\n{current}"


def test_every_room_is_on_the_map() -> None:
    """A module of the package has a line in the tree of docs/architecture.md, and no line is without a module."""
    tree = next(block.text for block in blocks(DOCS / "architecture.md") if block.text.startswith("streamproc/"))
    folders: list[str] = []
    drawn = set()
    for line in tree.splitlines()[1:]:
        depth = (len(line) - len(line.lstrip())) // 2
        entry = line.split()[0]
        folders = folders[: depth - 1]
        if entry.endswith("/"):
            folders.append(entry)
        elif entry.endswith(".py"):
            drawn.add("".join(folders) + entry)
    package = ROOT / "streamproc"
    modules = {str(file.relative_to(package)) for file in package.rglob("*.py")}
    assert drawn == {module for module in modules if not module.endswith("/__init__.py")}


def test_rules_that_the_code_names_are_written_down() -> None:
    """A rule number in a docstring leads to a rule in docs/semantics.md."""
    named = {
        rule
        for folder in ("streamproc", "topologies")
        for file in (ROOT / folder).rglob("*.py")
        for rule in re.findall(r"\bS\d{1,2}\b", file.read_text())
    }
    defined = set(re.findall(r"^\*\*(S\d{1,2})\b", (DOCS / "semantics.md").read_text(), re.MULTILINE))
    assert named - defined == set()


def test_every_reason_is_explained() -> None:
    """docs/errors.md has a row for each reason that a record can be refused for."""
    rows = set(re.findall(r"^\| `(\w+)` \|", (DOCS / "errors.md").read_text(), re.MULTILINE))
    assert set(REASONS) <= rows

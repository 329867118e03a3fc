"""The import law: who may know whom.

    cli, testing --> adapters --> ports --> core's values
         |                                      ^
         +---------> runners ------> core ------+        topology --> core

The checker is made of pure functions over {module: source}, so that each law is shown to catch a planted
violation.  An import counts wherever it stands: at the top, in a function, under TYPE_CHECKING, or as
`import_module("...")`.
"""

import ast
import graphlib
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import pytest

ROOT = Path(__file__).parent.parent

Sources: TypeAlias = Mapping[str, str]

PURE = frozenset(
    # A list would take a line for each.
    """__future__ abc array base64 binascii bisect calendar collections contextlib copy dataclasses datetime
    decimal enum fractions functools graphlib hashlib heapq inspect itertools json keyword linecache math
    numbers operator re string struct sys textwrap traceback types typing unicodedata zlib""".split()  # noqa: SIM905
)
"""Standard library without clock, chance, files, threads or network.  Others are impure until shown."""

ENGINE = tuple(f"streamproc.core.{room}" for room in ("fuse", "joins", "operators", "site", "task", "windowing"))
"""The modules of the core that act.  The others are values, which the seams may speak of."""

LIBRARIES = {
    "logs": {"orjson", "structlog"},  # the line, and its bytes
    "http": {"aiohttp", "prometheus_client"},  # /metrics is one of its pages
}
"""Adapters with more than one library, and which.  Any other adapter has one of its choice."""

MAY_PICK = ("streamproc.cli", "streamproc.testing")
"""The only rooms that import adapters by name."""

ABOUT_METRICS = {"http", "prometheus"}
"""Adapters that may read the metric catalogue."""


@dataclass(frozen=True)
class Import:
    """`importer` names `imported` in `line`; of `from a import b` the imported name is a.b, module or not."""

    importer: str
    imported: str
    line: int

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.imported}"


@dataclass(frozen=True)
class Law:
    """Each import of a module that it `covers` must be one that it `allows`."""

    text: str
    covers: Callable[[str], bool]
    allows: Callable[[Import], bool]


def under(module: str, *rooms: str) -> bool:
    """Whether `module` is one of the `rooms` or inside one."""
    return any(module == room or module.startswith(f"{room}.") for room in rooms)


def top(module: str) -> str:
    """The distribution's or standard library's own name: a of a.b.c."""
    return module.partition(".")[0]


def is_pure(module: str) -> bool:
    """Whether `module` is standard library that the core may use."""
    return top(module) in PURE or module.startswith("typing_extensions")  # which only type checkers ever see


def is_stdlib(module: str) -> bool:
    """Whether `module` is standard library."""
    return top(module) in sys.stdlib_module_names


def adapter(module: str) -> str | None:
    """The adapter that `module` is or belongs to: kafka of streamproc.adapters.kafka.fetch."""
    parts = module.split(".")
    return parts[2] if parts[:2] == ["streamproc", "adapters"] and len(parts) > 2 else None


def _adapter_allows(found: Import) -> bool:
    name, imported = adapter(found.importer), found.imported
    if under(imported, "streamproc.metrics.catalog"):
        return name in ABOUT_METRICS
    if top(imported) == "streamproc":
        return under(imported, "streamproc.core", "streamproc.ports", f"streamproc.adapters.{name}")
    return True  # how many libraries it has is counted over the whole adapter


LAWS = (
    Law(
        "the core imports the core and pure standard library",
        lambda m: under(m, "streamproc.core"),
        lambda i: under(i.imported, "streamproc.core") or is_pure(i.imported),
    ),
    Law(
        "topology imports the core and pure standard library",
        lambda m: under(m, "streamproc.topology"),
        lambda i: (
            under(i.imported, "streamproc.core", "streamproc.topology")
            or is_pure(i.imported)
            or top(i.imported) == "zoneinfo"  # time zones are read when a topology is built
        ),
    ),
    Law(
        "ports import the core's values and pure standard library",
        lambda m: under(m, "streamproc.ports"),
        lambda i: (
            (under(i.imported, "streamproc.core", "streamproc.ports") and not under(i.imported, *ENGINE))
            or is_pure(i.imported)
        ),
    ),
    Law(
        "an adapter imports ports, the core and its own library",
        lambda m: adapter(m) is not None,
        _adapter_allows,
    ),
    Law(
        "the adapters' folder is no module of its own",
        lambda m: m == "streamproc.adapters",
        lambda _: False,
    ),
    Law(
        "runners import the core, ports and standard library",
        lambda m: under(m, "streamproc.runners"),
        lambda i: (
            under(i.imported, "streamproc.core", "streamproc.ports", "streamproc.runners") or is_stdlib(i.imported)
        ),
    ),
    Law(
        "only cli and testing import adapters by name",
        lambda m: under(m, "streamproc") and not under(m, *MAY_PICK, "streamproc.adapters"),
        lambda i: not under(i.imported, "streamproc.adapters"),
    ),
    Law(
        "nothing imports the cli",
        lambda m: not under(m, "streamproc.cli", "streamproc.__main__"),
        lambda i: not under(i.imported, "streamproc.cli"),
    ),
    Law(
        "examples import streamproc, msgspec and standard library",
        lambda m: under(m, "topologies"),
        lambda i: top(i.imported) in {"streamproc", "msgspec"} or is_stdlib(i.imported),
    ),
)


def imports(sources: Sources) -> list[Import]:
    """Every import of every module, in the order of modules and lines."""
    found = [
        Import(module, imported, node.lineno)
        for module, source in sorted(sources.items())
        for node in ast.walk(ast.parse(source, module))
        for imported in _named(node, module, sources)
    ]
    return sorted(found, key=lambda i: (i.importer, i.line, i.imported))


def _named(node: ast.AST, module: str, sources: Sources) -> Iterator[str]:
    match node:
        case ast.Import(names=names):
            yield from (alias.name for alias in names)
        case ast.ImportFrom(module=base, names=names, level=level):
            origin = ".".join(part for part in (_climbed(module, level, sources), base) if part)
            yield from (f"{origin}.{alias.name}" for alias in names)
        case ast.Call(
            func=ast.Name(id="__import__" | "import_module") | ast.Attribute(attr="import_module"),
            args=[ast.Constant(value=str(name)), *_],
        ):
            yield name


def _climbed(module: str, level: int, sources: Sources) -> str:
    """The package that a relative import of `level` dots starts from; "" for an absolute one."""
    if not level:
        return ""
    is_package = any(other.startswith(f"{module}.") for other in sources)
    parts = module.split(".")
    return ".".join(parts[: len(parts) + is_package - level])


def broken_laws(sources: Sources) -> list[str]:
    """The imports that break one of LAWS."""
    return [
        f"{found}: {law.text}"
        for found in imports(sources)
        for law in LAWS
        if law.covers(found.importer) and not law.allows(found)
    ]


def crowded_adapters(sources: Sources) -> list[str]:
    """The adapters that know more libraries than their own."""
    libraries = defaultdict(set)
    for found in imports(sources):
        name, library = adapter(found.importer), top(found.imported)
        if name and library != "streamproc" and not is_stdlib(library):
            libraries[name].add(library)
    return [
        f"streamproc.adapters.{name} imports {', '.join(sorted(used))}: an adapter has one library"
        for name, used in sorted(libraries.items())
        if len(used) > 1 and not used <= LIBRARIES.get(name, set())
    ]


def cycles(sources: Sources) -> list[str]:
    """The first cycle of the module graph.  A package's __init__ running first is no edge."""
    graph: dict[str, set[str]] = {module: set() for module in sources}
    for found in imports(sources):
        if (target := _module_of(found.imported, sources)) and target != found.importer:
            graph[found.importer].add(target)
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return [f"{' <- '.join(error.args[1])}: imports make no cycle"]
    return []


def _module_of(name: str, sources: Sources) -> str | None:
    """The longest prefix of `name` that is a module: a.b of the function a.b.f."""
    parts = name.split(".")
    prefixes = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next((prefix for prefix in prefixes if prefix in sources), None)


def impure_acts(sources: Sources) -> list[str]:
    """What needs no import and is not for the core: waiting, clocks, files, output, generated code."""
    return [
        f"{module}:{line} {act}: the core is pure"
        for module, source in sorted(sources.items())
        if under(module, "streamproc.core")
        for line, act in sorted(_acts(source, module))
    ]


def _acts(source: str, module: str) -> Iterator[tuple[int, str]]:
    generates = under(module, "streamproc.core.fuse")
    for node in ast.walk(ast.parse(source, module)):
        match node:
            case ast.AsyncFunctionDef() | ast.Await() | ast.AsyncFor() | ast.AsyncWith():
                yield node.lineno, "waits"
            case ast.Call(func=ast.Attribute(attr="now" | "today" | "utcnow" as clock)):
                yield node.lineno, f"reads a clock with {clock}()"
            case ast.Call(func=ast.Name(id="open" | "print" | "input" | "breakpoint" | "__import__" as act)):
                yield node.lineno, f"calls {act}()"
            case ast.Call(func=ast.Name(id="exec" | "eval" | "compile" as act)) if not generates:
                yield node.lineno, f"generates code with {act}()"
            case _:
                pass


def everything_wrong(sources: Sources) -> list[str]:
    """All that the checker has to say; the empty list for a house in order."""
    return [*broken_laws(sources), *crowded_adapters(sources), *cycles(sources), *impure_acts(sources)]


def read(root: Path, *folders: str) -> dict[str, str]:
    """The modules below `folders` and their sources.  The tests beside the examples are not modules."""
    paths = [path for folder in folders for path in (root / folder).rglob("*.py")]
    return {
        _dotted(path.relative_to(root)): path.read_text(encoding="utf-8")
        for path in paths
        if not path.name.startswith("test_")
    }


def _dotted(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def test_the_house_is_in_order() -> None:
    """The package and its examples keep every law of this file."""
    assert everything_wrong(read(ROOT, "streamproc", "topologies")) == []


def test_a_sound_package_passes() -> None:
    """The checker has nothing to say about a package that uses each room as it is meant."""
    assert everything_wrong(SOUND) == []


SOUND = {
    "streamproc": "from streamproc.topology import Topology",
    "streamproc.__main__": "from streamproc.cli import main",
    "streamproc.adapters": "",
    "streamproc.adapters.codecs": "import msgspec",
    "streamproc.adapters.logs": "import orjson\nimport structlog",
    "streamproc.adapters.http": "from aiohttp import web\nimport prometheus_client",
    "streamproc.adapters.kafka": "import aiokafka\nfrom streamproc.adapters.kafka.fetch import fetch",
    "streamproc.adapters.kafka.fetch": "import asyncio, aiokafka.errors\nfrom streamproc.ports import Source",
    "streamproc.adapters.prometheus": "import prometheus_client\nfrom streamproc.metrics.catalog import ALL",
    "streamproc.cli": "def run():\n    from streamproc.adapters import kafka",
    "streamproc.core": "",
    "streamproc.core.batch": "from collections.abc import Sequence\nfrom datetime import UTC, datetime",
    "streamproc.core.fuse": "exec(compile('1', '<plan>', 'exec'))",
    "streamproc.core.plan": "from streamproc.core import batch",
    "streamproc.core.task": "from streamproc.core.fuse import fused\nfrom .batch import Batch",
    "streamproc.metrics.catalog": "from dataclasses import dataclass",
    "streamproc.ports": "from typing import Protocol\nfrom streamproc.core.batch import Step",
    "streamproc.runners.memory": "import asyncio\nfrom streamproc import ports\nimport streamproc.core.task",
    "streamproc.testing": "from streamproc.adapters.codecs import Raw",
    "streamproc.topology": "import zoneinfo\nfrom streamproc.core.plan import Plan",
    "topologies.flights": "import msgspec\nfrom datetime import datetime\nfrom streamproc import Topology",
}

PLANTED = [
    ("streamproc.core.task", "import asyncio", "the core imports the core"),
    ("streamproc.core.task", "from time import monotonic", "the core imports the core"),
    ("streamproc.core.task", "import random", "the core imports the core"),
    ("streamproc.core.task", "import os.path", "the core imports the core"),
    ("streamproc.core.task", "import logging", "the core imports the core"),
    ("streamproc.core.task", "import socket", "the core imports the core"),
    ("streamproc.core.task", "import zoneinfo", "the core imports the core"),
    ("streamproc.core.task", "import msgspec", "the core imports the core"),
    ("streamproc.core.task", "from streamproc.ports import Source", "the core imports the core"),
    ("streamproc.core.task", "from streamproc.topology import Topology", "the core imports the core"),
    ("streamproc.core.task", "at = datetime.now(UTC)", "reads a clock"),
    ("streamproc.core.task", "open('x')", "calls open()"),
    ("streamproc.core.task", "print(1)", "calls print()"),
    ("streamproc.core.task", "async def step(): ...", "waits"),
    ("streamproc.core.task", "exec('1')", "generates code"),
    ("streamproc.topology", "from streamproc.runners import memory", "topology imports the core"),
    ("streamproc.topology", "import streamproc.ports", "topology imports the core"),
    ("streamproc.ports", "from streamproc.core.task import Task", "ports import the core's values"),
    ("streamproc.ports", "import aiokafka", "ports import the core's values"),
    ("streamproc.adapters.http", "from streamproc.adapters.codecs import Raw", "an adapter imports ports"),
    ("streamproc.adapters.http", "import streamproc.runners.memory", "an adapter imports ports"),
    ("streamproc.adapters.http", "import streamproc.config", "an adapter imports ports"),
    ("streamproc.adapters.codecs", "import streamproc.metrics.catalog", "an adapter imports ports"),
    ("streamproc.adapters.kafka.fetch", "import aiohttp", "an adapter has one library"),
    ("streamproc.adapters", "from streamproc.adapters import kafka", "the adapters' folder"),
    ("streamproc.runners.memory", "from streamproc.adapters import kafka", "runners import the core"),
    ("streamproc.runners.memory", "from streamproc.config import Config", "runners import the core"),
    ("streamproc.runners.memory", "import structlog", "runners import the core"),
    ("streamproc", "from streamproc.adapters import kafka", "only cli and testing"),
    ("streamproc.metrics.catalog", "import streamproc.adapters.prometheus", "only cli and testing"),
    ("streamproc.testing", "import streamproc.cli", "nothing imports the cli"),
    ("topologies.flights", "import pandas", "examples import streamproc"),
    ("streamproc.core.batch", "from streamproc.core.plan import Plan", "imports make no cycle"),
    ("streamproc.core.batch", "if TYPE_CHECKING:\n    from . import plan", "imports make no cycle"),
]


@pytest.mark.parametrize(("module", "line", "law"), PLANTED)
def test_a_planted_violation_is_caught(module: str, line: str, law: str) -> None:
    """Each law catches the smallest program that breaks it."""
    wrong = everything_wrong({**SOUND, module: f"{SOUND[module]}\n{line}"})
    assert [message for message in wrong if law in message], wrong


HIDDEN = [
    "import random",
    "import random as certain",
    "from random import choice",
    "def step():\n    import random",
    "class Never:\n    import random",
    "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import random",
    "import_module('random')",
    "importlib.import_module('random')",
    "__import__('random')",
]


@pytest.mark.parametrize("source", HIDDEN)
def test_an_import_counts_wherever_it_stands(source: str) -> None:
    """No way of writing an import hides it from the law."""
    assert "random" in [top(found.imported) for found in imports({"m": source})]


def test_a_relative_import_is_the_import_it_stands_for() -> None:
    """Dots are resolved from the module's package, and from a package itself."""
    sources = {"p": "from .a import x", "p.a": "from . import b", "p.b": ""}
    sources |= {"p.q": "from ..a import y", "p.q.r": ""}
    assert imports(sources) == [Import("p", "p.a.x", 1), Import("p.a", "p.b", 1), Import("p.q", "p.a.y", 1)]

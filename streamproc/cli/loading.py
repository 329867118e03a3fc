"""MODULE:VAR to a topology: `flights`, `flights:topology`, `flights:build`, `flights:build('EWR', limit=3)`."""

from __future__ import annotations

import ast
import importlib
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, TypeVar

from streamproc.core.errors import ConfigError, StreamprocError, TopologyError
from streamproc.topology import Topology

T = TypeVar("T")

DEFAULT = "topology"
PACKAGE = f"{Path(__file__).parent.parent}{os.sep}"


class Reference(NamedTuple):
    """A topology's place, and the arguments of the factory that makes it, None where it is not called."""

    module: str
    name: str
    call: tuple[list[Any], dict[str, Any]] | None


def reference(text: str) -> Reference:
    """What MODULE:VAR says; ConfigError where it says nothing."""
    module, _, rest = text.partition(":")
    if module.endswith(".py") or os.sep in module:
        dotted = module.removesuffix(".py").strip("./").replace(os.sep, ".")
        raise ConfigError(f"{module!r} is a path: name the module, as in {dotted}:{rest or DEFAULT}")
    if not all(part.isidentifier() for part in module.split(".")):
        raise ConfigError(f"{text!r} names no topology: write MODULE:VAR, as in flights:topology")
    try:
        match ast.parse(rest or DEFAULT, mode="eval").body:
            case ast.Name(id=name):
                return Reference(module, name, None)
            case ast.Call(func=ast.Name(id=name), args=args, keywords=keywords):
                named = {each.arg: ast.literal_eval(each.value) for each in keywords if each.arg is not None}
                if len(named) == len(keywords):
                    return Reference(module, name, ([ast.literal_eval(each) for each in args], named))
    except (SyntaxError, ValueError):
        pass
    raise ConfigError(
        f"{rest!r} of {text!r} is neither a name nor a call with plain values, as in {module}:build('EWR', limit=3)"
    )


def load(text: str) -> Topology:
    """The topology that MODULE:VAR names, imported from the current directory or an installed package.

    Raises ConfigError where there is none, and TopologyError, with its place, where it is declared wrongly.
    """
    place = reference(text)
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    module = _module(place.module)
    if not hasattr(module, place.name):
        raise ConfigError(f"{place.module} has no {place.name!r}: {_topologies(module)}")
    found = getattr(module, place.name)
    if not isinstance(found, Topology) and callable(found):
        arguments, named = place.call or ([], {})
        found = _guarded(f"{place.module}:{place.name}", lambda: found(*arguments, **named))
    elif place.call is not None:
        raise ConfigError(f"{place.module}:{place.name} cannot be called: it is a {type(found).__name__}")
    if not isinstance(found, Topology):
        raise ConfigError(f"{text} is a {type(found).__name__} and not a Topology: {_topologies(module)}")
    return found


def _module(name: str) -> ModuleType:
    try:
        found = _guarded(f"importing {name}", lambda: importlib.import_module(name))
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            raise ConfigError(
                f"there is no module {error.name!r} in {Path.cwd()} or among installed packages"
            ) from None
        raise ConfigError(f"importing {name}: {error}{_where(error)}") from error
    return found


def _guarded(what: str, run: Callable[[], T]) -> T:
    """What user code gives; its mistakes as an error that names their place."""
    try:
        return run()
    except TopologyError as error:
        raise TopologyError(f"{error}{_where(error)}") from error
    except (StreamprocError, ModuleNotFoundError):
        raise
    except Exception as error:
        raise ConfigError(f"{what}: {type(error).__name__}: {error}{_where(error)}") from error


def _where(error: BaseException) -> str:
    """The user's line that an error came from."""
    if isinstance(error, SyntaxError):
        return ""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith((PACKAGE, "<frozen"))
    ]
    return f" ({os.path.relpath(frames[-1].filename)} line {frames[-1].lineno})" if frames else ""


def _topologies(module: ModuleType) -> str:
    found = sorted(name for name, value in vars(module).items() if isinstance(value, Topology))
    return f"it has {', '.join(found)}" if found else "it has no Topology at all"

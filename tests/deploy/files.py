"""What stands in `deploy`: rules, cases of rules, boards; and the programs that check it."""

import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
PROMETHEUS = DEPLOY / "prometheus"
RULES = sorted((PROMETHEUS / "rules").glob("*.yml"))
CASES = sorted((PROMETHEUS / "tests").glob("*.yml"))
BOARDS = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))
RUNBOOKS = ROOT / "docs" / "runbooks"
INTERVAL = {"$__rate_interval": "1m", "$job": ".*", "$topology": ".*", "$instance": ".*"}


def loaded(path: Path) -> Any:
    """A YAML file as plain data."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def rules() -> list[dict[str, Any]]:
    """Every rule, in order."""
    return [rule for path in RULES for group in loaded(path)["groups"] for rule in group["rules"]]


def alerts() -> list[dict[str, Any]]:
    """Every rule that alerts."""
    return [rule for rule in rules() if "alert" in rule]


def boards() -> dict[str, Any]:
    """Every board by the name of its file, as Grafana reads it."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in BOARDS}


def filled(expression: str) -> str:
    """The expression of a panel with a value for each variable."""
    return re.sub(r"\$\w+", lambda found: INTERVAL[found.group()], expression)


def tool(name: str, package: str) -> str:
    """The path of a program; without it the test is skipped, but not in CI."""
    beside = Path(sys.executable).parent / name
    path = str(beside) if beside.exists() else shutil.which(name)
    if path is None:
        if os.environ.get("CI"):
            pytest.fail(f"{name} is not installed: {package}")
        pytest.skip(f"{name} is not installed: {package}")
    return path


PROMTOOL = "it comes with Debian's package prometheus, or any release of Prometheus"

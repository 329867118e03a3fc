"""Rules and boards against the catalogue, and each alert against a case that fires and one that does not."""

import re
import subprocess
from typing import Any

import pytest

from streamproc.metrics.catalog import CATALOG, VALUES
from tests.deploy.expressions import EXPORTED, OTHERS, SCRAPED, asked, base, labels
from tests.deploy.files import (
    CASES,
    PROMETHEUS,
    PROMTOOL,
    ROOT,
    RULES,
    RUNBOOKS,
    alerts,
    boards,
    filled,
    loaded,
    rules,
    tool,
)

RECORDED = {rule["record"] for rule in rules() if "record" in rule}
ALERTS = sorted({rule["alert"] for rule in alerts()})
ON_BOARDS = [
    filled(target["expr"]) for board in boards().values() for panel in board["panels"] for target in panel["targets"]
]
EVERYTHING = [*ON_BOARDS, *(rule["expr"] for rule in rules())]


def promtool(*arguments: str) -> str:
    """What promtool says; it must be content."""
    done = subprocess.run(
        [tool("promtool", PROMTOOL), *arguments],
        cwd=PROMETHEUS / "tests",
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_prometheus_accepts_its_configuration() -> None:
    """The configuration is valid, and so are the rules it names: all there are."""
    said = promtool("check", "config", "../prometheus.yml")
    assert f"{len(RULES)} rule files found" in said
    assert "FAILED" not in promtool("check", "rules", *map(str, RULES))


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_cases_come_out_as_they_say(path: Any) -> None:
    """What is sick fires, and what is nearly so does not."""
    assert "SUCCESS" in promtool("test", "rules", path.name)


@pytest.mark.parametrize("name", ALERTS)
def test_every_alert_has_a_case_that_fires_and_one_that_does_not(name: str) -> None:
    """Its cases bear its name; something is expected to fire at every speed of burning, and what is well is not."""
    cases = [case for path in CASES for case in loaded(path)["tests"] if case["name"] == name]
    questions = [question for case in cases for question in case["promql_expr_test"]]
    fired = [(question["expr"], sample["labels"]) for question in questions for sample in question["exp_samples"]]
    assert all(f'alertname="{name}"' in question["expr"] for question in questions)
    assert fired
    assert not [sample for _, sample in fired if "well" in sample]
    assert any('="well"' in str(case["input_series"]) for case in cases) or [] in [q["exp_samples"] for q in questions]
    for burn in {rule["labels"].get("burn") for rule in alerts() if rule["alert"] == name} - {None}:
        assert [1 for question, sample in fired if f'burn="{burn}"' in question + sample]


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule["alert"] + rule["labels"].get("burn", ""))
def test_an_alert_says_what_is_wrong_and_where_to_read_on(rule: Any) -> None:
    """Severity, summary, description, a page that exists; its texts name labels that its expression bears."""
    assert rule["labels"]["severity"] in {"page", "ticket"}
    notes = rule["annotations"]
    assert set(notes) == {"summary", "description", "runbook_url"}
    assert notes["runbook_url"] == f"docs/runbooks/{rule['alert']}.md"
    assert (ROOT / notes["runbook_url"]).is_file()
    recorded = {each["record"]: labels(each["expr"], {}) | {"topology"} for each in rules() if "record" in each}
    words = set(re.findall(r"\$labels\.(\w+)", notes["summary"] + notes["description"]))
    assert words <= labels(rule["expr"], recorded)


def test_every_runbook_is_that_of_an_alert() -> None:
    """There is one page for each alert, and no other but their list."""
    assert {page.stem for page in RUNBOOKS.glob("*.md")} == {*ALERTS, "README"}
    listed = (RUNBOOKS / "README.md").read_text(encoding="utf-8")
    assert [name for name in ALERTS if f"[{name}]({name}.md)" not in listed] == []


@pytest.mark.parametrize("expression", sorted(set(EVERYTHING)))
def test_what_is_asked_for_exists(expression: str) -> None:
    """Every name is in the catalogue, recorded by a rule, or known to come from elsewhere; so is every label."""
    for each in asked(expression):
        if each.name in EXPORTED:
            assert each.labels <= EXPORTED[each.name]
        elif each.name in OTHERS:
            assert each.labels <= OTHERS[each.name] | SCRAPED
        else:
            assert each.name in RECORDED
            assert each.labels <= {"topology"}


def test_every_value_that_is_asked_for_can_be() -> None:
    """A label of a closed list is asked for by values of that list, a bucket by a bound there is."""
    for name, label, value in re.findall(r'(streamproc_\w+)\{[^}]*?(\w+)="([^"$]*)"', "\n".join(EVERYTHING)):
        if label == "le":
            bounds = next(metric.buckets for metric in CATALOG if metric.name == base(name))
            assert value in {str(bound) for bound in bounds}
        elif (name, label) in VALUES:
            assert value in VALUES[name, label]


def test_every_metric_is_used_or_for_ad_hoc_use() -> None:
    """What no panel and no rule asks for is marked so in the catalogue, and nothing else is."""
    used = {base(each.name) for expression in EVERYTHING for each in asked(expression)}
    assert {metric.name for metric in CATALOG if metric.name not in used} == {
        metric.name for metric in CATALOG if metric.adhoc
    }

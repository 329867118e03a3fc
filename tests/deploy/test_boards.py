"""The boards of Grafana: they are what the program writes, and each panel says what it shows."""

import json
from itertools import combinations
from typing import Any

import pytest
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from deploy import dashboards
from tests.deploy.expressions import EXPORTED, asked, labels
from tests.deploy.files import BOARDS, boards, filled, rules

SOURCE = {"type": "prometheus", "uid": "${datasource}"}
PANELS = [(name, panel) for name, board in boards().items() for panel in board["panels"]]
QUERIES = [(f"{name}: {panel['title']}", panel, each) for name, panel in PANELS for each in panel["targets"]]


def named(case: Any) -> str:
    """A query as it is called in a test's name."""
    return case if isinstance(case, str) else ""


def test_the_boards_are_what_the_program_writes() -> None:
    """Building them again gives the same bytes, and there is no other file."""
    assert {board.uid: dashboards.encoded(dashboards.built(board)) for board in dashboards.BOARDS} == {
        path.stem: path.read_text(encoding="utf-8") for path in BOARDS
    }


@pytest.mark.parametrize("path", BOARDS, ids=lambda path: path.stem)
def test_a_board_means_the_same_to_grafanas_own_library(path: Any) -> None:
    """Read into its types and written again it is the same bytes: nothing in it is unknown or of a wrong type."""
    register_default_plugins()
    board = Dashboard.from_json(json.loads(path.read_text(encoding="utf-8")))
    assert dashboards.encoded(board) == path.read_text(encoding="utf-8")


@pytest.mark.parametrize(("name", "board"), boards().items(), ids=named)
def test_a_board_can_be_found_and_left(name: str, board: Any) -> None:
    """Its uid is its file's name; nobody edits it; links keep variables and time; four variables choose."""
    assert board["uid"] == name
    assert board["editable"] is False
    assert [(link["tags"], link["includeVars"], link["keepTime"]) for link in board["links"]] == [
        (["streamproc"], True, True)
    ]
    assert "streamproc" in board["tags"]
    variables = [variable["name"] for variable in board["templating"]["list"]]
    assert variables == ["datasource", "job", "topology", "instance"]


@pytest.mark.parametrize(("name", "board"), boards().items(), ids=named)
def test_panels_of_a_board_lie_side_by_side(name: str, board: Any) -> None:  # noqa: ARG001 - the test's name
    """No two overlap, none is wider than the page, and each has a number of its own."""
    places = [panel["gridPos"] for panel in board["panels"]]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    assert not [
        (one, other)
        for one, other in combinations(places, 2)
        if abs(2 * (one["x"] - other["x"]) + one["w"] - other["w"]) < one["w"] + other["w"]
        and abs(2 * (one["y"] - other["y"]) + one["h"] - other["h"]) < one["h"] + other["h"]
    ]
    numbers = [panel["id"] for panel in board["panels"]]
    assert len(set(numbers)) == len(numbers)


def test_uids_and_titles_are_unique() -> None:
    """Boards differ in uid and title, the panels of one board in title."""
    found = list(boards().values())
    for unique in (
        [board["uid"] for board in found],
        [board["title"] for board in found],
        [(name, panel["title"]) for name, panel in PANELS],
    ):
        assert len(set(unique)) == len(unique)


@pytest.mark.parametrize(
    ("where", "panel"), [(f"{name}: {panel['title']}", panel) for name, panel in PANELS], ids=named
)
def test_a_panel_says_what_it_shows(where: str, panel: Any) -> None:  # noqa: ARG001 - the test's name
    """It has a title, a sentence on it and a unit; asks the data source that was chosen; series have a legend."""
    assert panel["title"]
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["datasource"] == SOURCE
    assert all(target["datasource"] == SOURCE and target["legendFormat"] for target in panel["targets"])
    if panel["type"] in {"timeseries", "state-timeline"}:
        assert panel["options"]["legend"]["showLegend"] is True


@pytest.mark.parametrize(("where", "panel", "target"), QUERIES, ids=named)
def test_a_query_follows_the_variables(where: str, panel: Any, target: Any) -> None:  # noqa: ARG001 - the test's name
    """Ours are chosen by job and topology, others by what they have; rates follow the zoom, or say a longer time."""
    for each in asked(filled(target["expr"])):
        if each.name in EXPORTED:
            assert {"job", "topology"} <= each.labels
        elif each.name.startswith("topology:"):
            assert "topology" in each.labels
        elif each.name != "ALERTS":
            assert "job" in each.labels
    for call in ("rate", "increase"):
        for length in target["expr"].split(f"{call}(")[1:]:
            assert length.partition("[")[2].partition("]")[0] in {"$__rate_interval", "5m", "1h"}


@pytest.mark.parametrize(("where", "panel", "target"), QUERIES, ids=named)
def test_a_legend_names_labels_that_are_there(where: str, panel: Any, target: Any) -> None:  # noqa: ARG001 - the test's name
    """What a legend names has survived the aggregation, and what tells series apart is in it."""
    recorded = {rule["record"]: labels(rule["expr"], {}) | {"topology"} for rule in rules() if "record" in rule}
    left = labels(filled(target["expr"]), recorded)
    words = {part.partition("}}")[0] for part in target["legendFormat"].split("{{")[1:]}
    assert words <= left
    if panel["type"] in {"timeseries", "bargauge"}:
        assert left - {"job"} <= words

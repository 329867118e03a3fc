"""PromQL read as what it is: which metrics it asks for by which labels, and which labels its answer bears."""

from dataclasses import dataclass

import promql_parser as promql

from streamproc.metrics.catalog import CATALOG

SCRAPED = frozenset({"job", "instance"})
"""Labels that Prometheus puts on everything it scrapes."""
OTHERS = {
    "up": frozenset[str](),
    "ALERTS": frozenset({"alertname", "alertstate", "severity", "topology"}),
    "process_resident_memory_bytes": frozenset[str](),
    "process_open_fds": frozenset[str](),
    "process_max_fds": frozenset[str](),
    "python_gc_collections_total": frozenset({"generation"}),
}
"""What boards and rules may ask for that is no metric of ours, with its labels."""


def exported() -> dict[str, frozenset[str]]:
    """Every name that a scrape has of ours, with its labels."""
    found: dict[str, frozenset[str]] = {}
    for metric in CATALOG:
        labels = SCRAPED | {"topology", *metric.labels}
        if metric.kind == "histogram":
            found |= {metric.name + part: labels for part in ("_sum", "_count")}
            found[metric.name + "_bucket"] = labels | {"le"}
        else:
            found[metric.name] = labels
    return found


EXPORTED = exported()


def base(name: str) -> str:
    """The name in the catalogue of what an expression asks for."""
    known = {metric.name for metric in CATALOG}
    return next((stem for part in ("_bucket", "_sum", "_count") if (stem := name.removesuffix(part)) in known), name)


@dataclass(frozen=True)
class Asked:
    """One selector: a name and the labels it is chosen by."""

    name: str
    labels: frozenset[str]


def asked(expression: str) -> list[Asked]:
    """Every selector of an expression."""
    found: list[Asked] = []

    def visit(node: object) -> bool:
        if isinstance(node, promql.VectorSelector):
            found.append(Asked(node.name or "", frozenset(each.name for each in node.matchers.matchers)))
        return True

    promql.walk(promql.parse(expression), visit)
    return found


def labels(expression: str, recorded: dict[str, frozenset[str]]) -> frozenset[str]:
    """The labels that can be on the answer; `recorded` has those of what rules record."""
    return _labels(promql.parse(expression), {**EXPORTED, **{n: o | SCRAPED for n, o in OTHERS.items()}, **recorded})


def _labels(node: object, known: dict[str, frozenset[str]]) -> frozenset[str]:  # noqa: PLR0911 - one a kind of node
    match node:
        case promql.VectorSelector():
            return known.get(node.name or "", frozenset())
        case promql.MatrixSelector():
            return _labels(node.vector_selector, known)
        case promql.ParenExpr() | promql.UnaryExpr() | promql.SubqueryExpr():
            return _labels(node.expr, known)
        case promql.Call():
            below = frozenset[str]().union(*(_labels(each, known) for each in node.args))
            return below - {"le"} if node.func.name == "histogram_quantile" else below
        case promql.AggregateExpr():
            return _aggregated(node, _labels(node.expr, known))
        case promql.BinaryExpr():
            return _combined(node, known)
    return frozenset()


def _aggregated(node: promql.AggregateExpr, below: frozenset[str]) -> frozenset[str]:
    if str(node.op) in {"topk", "bottomk"}:
        return below
    if node.modifier is None:
        return frozenset()
    named = frozenset(node.modifier.labels)
    return below & named if node.modifier.type == promql.AggModifierType.By else below - named


def _combined(node: promql.BinaryExpr, known: dict[str, frozenset[str]]) -> frozenset[str]:
    left, right = _labels(node.lhs, known), _labels(node.rhs, known)
    if isinstance(node.lhs, promql.NumberLiteral) or not left:
        return right
    if node.modifier is None or node.modifier.matching is None or str(node.op) in {"and", "unless"}:
        return left
    if node.modifier.card == promql.VectorMatchCardinality.ManyToOne:
        return left
    named = frozenset(node.modifier.matching.labels)
    return left & named if node.modifier.matching.type == promql.LabelModifierType.Include else left - named

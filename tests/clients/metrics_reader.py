"""What scrapes and watches a server: Prometheus' own parsers read its page, and every query of the
dashboard and the alerts parses and asks for what is there."""

import json
import pathlib
import re
import sys
import urllib.request

import promql_parser
import yaml
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as text_format

URL, ROOT = sys.argv[1], pathlib.Path(sys.argv[2])
# Of Prometheus, not of what it scrapes.
TARGET_LABELS = {"instance", "job", "le"}
# What Grafana puts in before it asks.
VARIABLES = {"$__rate_interval": "5m", "$instance": ".*", "$model": ".*"}


def page(accept):
    request = urllib.request.Request(URL + "/metrics", headers={"Accept": accept})
    with urllib.request.urlopen(request) as answer:
        return answer.headers["Content-Type"], answer.read().decode()


def labels_by_sample(families):
    """The labels of each sample's name, after checks that no parser makes."""
    found = {}
    for family in families:
        assert family.documentation, f"{family.name} has no help"
        buckets = {}
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
            if sample.name == family.name + "_bucket":
                rest = tuple(sorted((k, v) for k, v in sample.labels.items() if k != "le"))
                buckets.setdefault(rest, []).append((float(sample.labels["le"]), sample.value))
        for rest, counts in buckets.items():
            assert counts == sorted(counts) and counts[-1][0] == float("inf"), (family.name, counts)
            values = [value for _, value in counts]
            assert values == sorted(values), (family.name, counts)
    return found


kind, text = page("text/plain")
assert kind == "text/plain; version=0.0.4; charset=utf-8", kind
exposed = labels_by_sample(text_format(text))
kind, text = page("application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5")
assert kind == "application/openmetrics-text; version=1.0.0; charset=utf-8", kind
assert labels_by_sample(open_metrics(text)) == exposed, "the two formats have the same samples"


def selectors(node):
    """Every metric that a query asks for, with the labels it is chosen by."""
    if isinstance(node, promql_parser.VectorSelector):
        yield node.name, [matcher.name for matcher in node.matchers.matchers]
    for name in ("lhs", "rhs", "expr", "vector_selector", "args", "param"):
        child = getattr(node, name, None)
        for child in child if isinstance(child, list) else [child]:
            if isinstance(child, promql_parser.Expr):
                yield from selectors(child)


def check(what, query):
    for name, value in VARIABLES.items():
        query = query.replace(name, value)
    asked = list(selectors(promql_parser.parse(query)))
    assert asked, f"{what} asks for nothing: {query}"
    for name, labels in asked:
        assert name in exposed, f"{what} asks for {name}, which is not exposed"
        unknown = set(labels) - exposed[name] - TARGET_LABELS
        assert not unknown, f"{what}: {name} has no label {unknown}"
    return {name for name, _ in asked}


asked = set()
alerts = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yaml").read_text())
rules = [rule for group in alerts["groups"] for rule in group["rules"]]
assert len({rule["alert"] for rule in rules}) == len(rules) > 5
documented = (ROOT / "docs/operations.md").read_text()
for rule in rules:
    asked |= check(rule["alert"], rule["expr"])
    assert rule["labels"]["severity"] in ("warning", "critical"), rule["alert"]
    assert rule["annotations"].keys() == {"summary", "description"}, rule["alert"]
    assert f"`{rule['alert']}`" in documented, f"docs/operations.md does not explain {rule['alert']}"

dashboard = json.loads((ROOT / "deploy/grafana/sconce.json").read_text())
panels = dashboard["panels"]
assert len({panel["id"] for panel in panels}) == len(panels)
for panel in panels:
    for target in panel.get("targets", []):
        asked |= check(panel["title"], target["expr"])
for annotation in dashboard["annotations"]["list"]:
    asked |= check(annotation["name"], annotation["expr"])
for variable in dashboard["templating"]["list"][1:]:
    selector, label = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["definition"]).groups()
    asked |= check(variable["name"], selector)
    assert label in TARGET_LABELS or label in exposed[selector.split("{")[0]], variable["name"]

for manifest in yaml.safe_load_all((ROOT / "deploy/kubernetes/sconce.yaml").read_text()):
    for container in manifest["spec"].get("template", {}).get("spec", {}).get("containers", []):
        for probe in ("livenessProbe", "readinessProbe"):
            path = container[probe]["httpGet"]["path"]
            assert urllib.request.urlopen(URL + path).status == 200, path

print(json.dumps({"exposed": len(exposed), "asked": len(asked)}))

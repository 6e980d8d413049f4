"""Reads a page of metrics from standard input with Prometheus' own client, which is strict, and
prints each metric as JSON: name, type, and the values of its labels. Exits with 77 without it."""

import json
import sys

try:
    from prometheus_client.openmetrics.parser import text_string_to_metric_families
except ImportError as error:
    print(f"no prometheus_client: {error}", file=sys.stderr)
    sys.exit(77)

ENDINGS = {"counter": "_total", "info": "_info"}

metrics = []
for family in text_string_to_metric_families(sys.stdin.read()):
    labels = {}
    for sample in family.samples:
        for label, value in sample.labels.items():
            if label != "le":
                labels.setdefault(label, set()).add(value)
    metrics.append(
        {
            "name": family.name + ENDINGS.get(family.type, ""),
            "type": family.type,
            "unit": family.unit,
            "help": family.documentation,
            "labels": {label: sorted(values) for label, values in labels.items()},
            "samples": len(family.samples),
        }
    )
json.dump(metrics, sys.stdout)

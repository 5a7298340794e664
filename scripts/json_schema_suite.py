"""Makes tests/json_schema from the JSON-Schema-Test-Suite inside the sdist of PyPI's jsonschema.

    pip download --no-deps --no-binary :all: jsonschema==4.26.0
    tar xzf jsonschema-4.26.0.tar.gz
    python3 scripts/json_schema_suite.py jsonschema-4.26.0/json

One line a schema: the file and the description of the case, the schema, and the instances with
whether they are valid. Schemas of older drafts get the `$schema` that the suite leaves to the runner.
"""

import json
import shutil
import sys
from pathlib import Path

# Each draft, and the `$schema` of those whose cases have none.
DRAFTS = {
    "draft2020-12": None,
    "draft2019-09": None,
    "draft7": "http://json-schema.org/draft-07/schema#",
    "draft6": "http://json-schema.org/draft-06/schema#",
    "draft4": "http://json-schema.org/draft-04/schema#",
}


def main() -> None:
    suite = Path(sys.argv[1])
    out = Path(__file__).parent.parent / "tests/json_schema"
    for draft, own_name in DRAFTS.items():
        root = suite / "tests" / draft
        lines = []
        for path in sorted(root.rglob("*.json")):
            for case in json.loads(path.read_text("utf-8")):
                schema = case["schema"]
                if own_name and isinstance(schema, dict):
                    schema = {"$schema": own_name} | schema
                row = {
                    "file": path.relative_to(root).with_suffix("").as_posix(),
                    "description": case["description"],
                    "schema": schema,
                    "tests": [[test["data"], test["valid"]] for test in case["tests"]],
                }
                lines.append(json.dumps(row, ensure_ascii=True, separators=(",", ":")) + "\n")
        (out / f"{draft}.jsonl").write_text("".join(lines), "utf-8")
    shutil.copy(suite / "LICENSE", out / "LICENSE")


main()

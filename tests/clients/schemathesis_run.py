"""Schemathesis against a server: schemathesis_run.py PROGRAM DOCUMENT URL MODEL [ARGUMENT ...]

DOCUMENT is an OpenAPI document, JSON or YAML. Requests are generated from it for the one MODEL, since
no other name leads anywhere; further arguments go to Schemathesis. What is generated is the same in
every run."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

HTTP_METHODS = ("get", "put", "post", "delete")


def resolved(document, schema):
    """The schema that a reference leads to."""
    while "$ref" in schema:
        target = document
        for part in schema["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        schema = target
    return schema


def name_model(document, model):
    """Lets every request be for `model`."""
    for path in document["paths"].values():
        for method in HTTP_METHODS:
            content = path.get(method, {}).get("requestBody", {}).get("content", {})
            body = content.get("application/json")
            if body is None:
                continue
            for schema in with_parts(document, body["schema"]):
                given = schema.get("properties", {}).get("model")
                if given is not None:
                    names = [model, None] if "null" in given.get("type", []) else [model]
                    schema["properties"]["model"] = {"enum": names}
            if "model" in body.get("example", {}):
                body["example"]["model"] = model


def forget_errors(document):
    """Drops the answers of statuses of errors: OpenAI's own are not in the envelope that it sends."""
    for path in document["paths"].values():
        for method in HTTP_METHODS:
            answers = path.get(method, {}).get("responses", {})
            for status in [status for status in answers if str(status)[0] in "45"]:
                del answers[status]


def with_parts(document, schema):
    """The schema and those that it is made of."""
    schema = resolved(document, schema)
    yield schema
    for part in schema.get("allOf", []):
        yield from with_parts(document, part)


def main():
    program, path, url, model, *arguments = sys.argv[1:]
    text = Path(path).read_text()
    document = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    name_model(document, model)
    forget_errors(document)
    with tempfile.TemporaryDirectory() as folder:
        named = Path(folder, "document.json")
        named.write_text(json.dumps(document, default=str))
        # One worker: two threads that parse Python at once upset CPython 3.11.
        done = subprocess.run(
            [
                program, "run", str(named), "--url", url, "--generation-deterministic",
                "--continue-on-failure", "--no-shrink", "--no-color", "--workers", "1",
                "--request-timeout", "60", *arguments,
            ],
            cwd=folder,
        )
    sys.exit(done.returncode)


main()

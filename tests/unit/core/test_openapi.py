"""CONTRACT §2: the description of the proxy's own resources is a valid OpenAPI 3.1 document, and
complete.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema

from proxy.core.errors import KINDS
from proxy.core.openapi import describe

DOCUMENT = json.loads(describe("1.2.3", "_async"))
METHODS = {"get", "head", "post", "delete"}


def nodes(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
    for inner in (
        value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    ):
        yield from nodes(inner)


def resolved(value: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in value:
        return value
    found: Any = DOCUMENT
    for part in value["$ref"].removeprefix("#/").split("/"):
        found = found[part]
    assert isinstance(found, dict)
    return found


def operations() -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    for path, item in DOCUMENT["paths"].items():
        for method in METHODS & item.keys():
            yield path, item, item[method]


def test_the_document_names_its_version_and_the_product() -> None:
    """§2: OpenAPI 3.1."""
    assert DOCUMENT["openapi"].startswith("3.1.")
    assert DOCUMENT["info"]["version"] == "1.2.3"


def test_every_resource_and_method_is_described() -> None:
    """§2: its table."""
    job = "/v{version}/_async/exports/{id}"
    expected = {
        "/v{version}/RestoreSessions/{restoreSessionId}/organization/{export}": {"post"},
        "/v{version}/_async/exports": {"get"},
        job: {"get", "delete"},
        f"{job}/result": {"get", "delete"},
        f"{job}/cancel": {"post"},
        "/_async/openapi.json": {"get"},
    }
    assert {
        path: METHODS & item.keys() - {"head"} for path, item in DOCUMENT["paths"].items()
    } == expected
    assert "/v{version}/_jobs/exports" in json.loads(describe("1", "_jobs"))["paths"]


def test_every_reference_resolves() -> None:
    """And every component is used."""
    used = {node["$ref"] for node in nodes(DOCUMENT) if "$ref" in node}
    assert all(resolved({"$ref": reference}) for reference in used)
    for kind in ("parameters", "headers", "schemas"):
        for name in DOCUMENT["components"][kind]:
            assert f"#/components/{kind}/{name}" in used, name


def test_path_parameters_are_those_of_the_path() -> None:
    """OpenAPI 3.1 §4.8.12: each template expression has its parameter, and each operation its own
    id.
    """
    seen = set()
    for path, item, operation in operations():
        parameters = [
            resolved(one) for one in item.get("parameters", []) + operation.get("parameters", [])
        ]
        named = {one["name"] for one in parameters if one["in"] == "path"}
        assert named == set(re.findall(r"{(\w+)}", path))
        assert all(one["required"] for one in parameters if one["in"] == "path")
        seen.add(operation["operationId"])
        assert all(re.fullmatch(r"[1-5]\d\d|default", status) for status in operation["responses"])
        assert all(
            resolved(response)["description"] for response in operation["responses"].values()
        )
    assert len(seen) == len(list(operations()))


def test_every_schema_is_valid() -> None:
    """JSON Schema 2020-12, the dialect of OpenAPI 3.1."""
    for schema in DOCUMENT["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)


def test_every_problem_type_is_described() -> None:
    """§11: its types."""
    types = DOCUMENT["components"]["schemas"]["Problem"]["properties"]["type"]["enum"]
    assert types == [f"urn:vb365-async:problem:{name}" for name in KINDS]

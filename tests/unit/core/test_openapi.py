"""CONTRACT §2: the description of the proxy's own resources and of the exports is a valid OpenAPI
3.1 document, and complete.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import Iterator
from typing import Any

import jsonschema

from proxy.core.errors import KINDS
from proxy.core.exports import match
from proxy.core.job_document import document
from proxy.core.openapi.document import describe
from proxy.core.openapi.page import POLICY, page
from proxy.core.paths import Links
from proxy.simulator import operations as simulated
from tests.support.fakes import new_job

DOCUMENT = describe("1.2.3", "_async")
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
        "/v{version}/_async/exports": {"get"},
        job: {"get", "delete"},
        f"{job}/result": {"get", "delete"},
        f"{job}/cancel": {"post"},
        "/_async/openapi.json": {"get"},
    }
    assert {
        path: METHODS & item.keys()
        for path, item in DOCUMENT["paths"].items()
        if "/RestoreSessions/" not in path
    } == expected
    assert "/v{version}/_jobs/exports" in describe("1", "_jobs")["paths"]


def test_every_export_is_described() -> None:
    """§1: the 29 of each version of the API. No id is a parameter that needs a slash."""
    exports = {
        path: item for path, item in DOCUMENT["paths"].items() if "/RestoreSessions/" in path
    }
    below = {path.partition("{restoreSessionId}/")[2] for path in exports}
    assert {re.sub(r"{\w+}", "{}", path) for path in below} == {
        re.sub(r"{\w+}", "{}", each.template) for each in simulated.OPERATIONS
    }
    for path, item in exports.items():
        target = re.sub(r"{\w+}", "8", path)
        assert match(b"POST", target.encode()), path
        assert item.keys() - {"parameters"} == {"post"}
    with_body = [path for path, item in exports.items() if "requestBody" in item["post"]]
    assert len(exports) - len(with_body) == 10


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


def test_every_member_and_parameter_has_a_description() -> None:
    """A page that is generated from the document explains all of it."""
    for name, schema in DOCUMENT["components"]["schemas"].items():
        assert schema["description"].endswith("."), name
        for member, about in schema.get("properties", {}).items():
            assert resolved(about)["description"].endswith("."), f"{name}.{member}"
    for _, item, operation in operations():
        for one in item.get("parameters", []) + operation["parameters"]:
            assert resolved(one)["description"]
        assert operation["summary"]
        assert {tag["name"] for tag in DOCUMENT["tags"]} >= set(operation["tags"])


def test_the_members_of_the_job_document_are_described() -> None:
    """§5: no member of a job is missing, and those of the examples are those of a job."""
    shown = document(new_job(), Links("https://h/v8/_async/exports/1"))
    described = DOCUMENT["components"]["schemas"]["Job"]
    assert shown.keys() | {"itemSizeBytes"} == described["properties"].keys()
    assert described["properties"].keys() - set(described["required"]) == {"itemSizeBytes"}
    for name in ("running", "ended"):
        example = DOCUMENT["components"]["examples"][name]["value"]
        assert example.keys() == described["properties"].keys()


def test_the_examples_are_valid() -> None:
    """OpenAPI 3.1 §4.8.19."""
    for name, schema in (("running", "Job"), ("ended", "Job"), ("problem", "Problem")):
        example = DOCUMENT["components"]["examples"][name]["value"]
        whole = {"$ref": f"#/components/schemas/{schema}", "components": DOCUMENT["components"]}
        jsonschema.Draft202012Validator(whole).validate(example)


def test_every_problem_type_is_described() -> None:
    """§11: its types."""
    types = DOCUMENT["components"]["schemas"]["Problem"]["properties"]["type"]["enum"]
    assert types == [f"urn:vb365-async:problem:{name}" for name in KINDS]


def test_the_version_and_the_server_are_given() -> None:
    """A generated client needs both."""
    version = DOCUMENT["components"]["parameters"]["version"]["schema"]
    assert re.fullmatch(version["pattern"], "8")
    assert not re.fullmatch(version["pattern"], "v8")
    assert DOCUMENT["servers"][0]["url"] == "/"
    assert describe("1", "_async", "https://h/x")["servers"][0]["url"] == "https://h/x"


def test_the_page_shows_every_operation_and_problem() -> None:
    """For people, without scripts: its policy allows its own style sheet only."""
    shown = page(DOCUMENT).decode()
    for path, item, operation in operations():
        assert f"<code>{path}</code>" in shown
        assert html.escape(operation["summary"]) in shown
        assert item
    for name in KINDS:
        assert f"<code>{name}</code>" in shown
    assert "<script" not in shown
    style = shown.partition("<style>")[2].partition("</style>")[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in POLICY

"""URLs of the proxy's own resources (CONTRACT §2, §13)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import proxy
from proxy.core.paths import (
    Links,
    OwnPaths,
    Resource,
    description_url,
    find_links,
    job_links,
    job_of,
    list_url,
    parse,
)

ID = "5f0c6d3e-0000-4000-8000-00000000000a"
JOB = f"/exports/{ID}"


@pytest.mark.parametrize(
    ("rest", "expected"),
    [
        ("/openapi.json", (Resource.DESCRIPTION, "")),
        ("/OpenAPI.json", (Resource.DESCRIPTION, "")),
        ("/exports", (Resource.LIST, "")),
        ("/Exports/", (Resource.LIST, "")),
        (JOB, (Resource.STATUS, ID)),
        (JOB.upper() + "/", (Resource.STATUS, ID)),
        (JOB + "/result", (Resource.RESULT, ID)),
        (JOB + "/Result/", (Resource.RESULT, ID)),
        (JOB + "/CANCEL", (Resource.CANCEL, ID)),
        ("", None),
        ("/", (Resource.PAGE, "")),
        ("//", None),
        ("/openapi.json/", None),
        ("/exports//", None),
        (JOB + "/other", None),
        (JOB + "/result/x", None),
        (JOB + "//result", None),
        (JOB.replace("-4000-", "-1000-"), None),
        (JOB.replace("-8000-", "-7000-"), None),
        ("/exports/1", None),
    ],
)
def test_2_a_path_below_the_segment_names_a_resource(
    rest: str, expected: tuple[Resource, str] | None
) -> None:
    assert parse(rest) == expected


def test_2_the_urls_of_a_job_extend_its_status_url() -> None:
    links = job_links("https://h/p", "v8", "_async", ID)
    assert links == Links(f"https://h/p/v8/_async/exports/{ID}")
    assert (links.result, links.cancel) == (links.status + "/result", links.status + "/cancel")


@pytest.mark.parametrize("prefix", ["", "/vb.365"])
@pytest.mark.parametrize("segment", ["_async", "_Jobs"])
def test_2_every_url_that_is_built_is_also_parsed(prefix: str, segment: str) -> None:
    links = job_links(prefix, "v8", segment, ID)
    expected = {
        list_url(prefix, "v8", segment): (Resource.LIST, ""),
        list_url(prefix, None, segment): (Resource.LIST, ""),
        description_url(prefix, segment): (Resource.DESCRIPTION, ""),
        links.status: (Resource.STATUS, ID),
        links.result: (Resource.RESULT, ID),
        links.cancel: (Resource.CANCEL, ID),
    }
    paths = OwnPaths(segment, prefix)
    for url, resource in expected.items():
        found = paths.split(url)
        assert found is not None
        assert parse(found[2]) == resource
        assert found[1] == ("v8" if "/v8/" in url else None)


@pytest.mark.parametrize("prefix", ["", "https://h:1/vb.365", "/p"])
@pytest.mark.parametrize("api", ["/v8", ""])
def test_2_links_are_found_in_the_path_of_a_status_url(prefix: str, api: str) -> None:
    """The prefix in front of the proxy is not part of them."""
    status = f"{api}/_async/exports/{ID.upper()}"
    assert find_links(prefix + status) == Links(status)
    assert find_links(f"{prefix}{status}/result") is None
    assert find_links(f"{prefix}{api}/_async/exports/x") is None


@pytest.mark.parametrize("ending", ["", "/", "/result", "/CANCEL"])
@pytest.mark.parametrize("base", ["", "https://h:1/p/v8/_async", "/_async"])
def test_2_the_job_of_a_url(base: str, ending: str) -> None:
    assert job_of(f"{base}/exports/{ID.upper()}{ending}") == ID
    for other in (f"{base}/exports/{ID}{ending}?x", f"{base}/exports/{ID[1:]}", base):
        assert job_of(other) is None


def test_13_the_prefix_is_optional_and_the_version_is_lower_case() -> None:
    paths = OwnPaths("_async", "/p")
    assert paths.split("/P/V8//_ASYNC/x") == ("/P/V8//_ASYNC", "v8", "/x")
    assert paths.split("/_async") == ("/_async", None, "")
    assert paths.split("/q/_async") is None
    assert paths.split("/_asyncs") is None


def test_the_shape_of_the_urls_is_written_once() -> None:
    """The simulator does not know the proxy: its paths are those of VB365. The acts of the admin
    API have paths of their own (§16).
    """
    package = Path(proxy.__file__).parent
    shape = re.compile(r"""["'/{}]/exports\b|/openapi\.json|[}+] ?"?/(?:result|cancel)\b""")
    files = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if shape.search(path.read_text(encoding="utf-8"))
    }
    apart = {file for file in files if file.startswith("simulator/")}
    assert files - apart == {"core/paths.py", "admin/acts.py"}

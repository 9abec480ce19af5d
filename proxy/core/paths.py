"""The URLs of the proxy's own resources, built and parsed (CONTRACT §2, §13)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

_EXPORTS, _RESULT, _CANCEL, _DESCRIPTION = "/exports", "/result", "/cancel", "/openapi.json"
_PAGE = "/"
_UUID4 = "[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
_JOB = re.compile(rf"{_EXPORTS}/({_UUID4})({_RESULT}|{_CANCEL})?/?", re.IGNORECASE)
_UUID = "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_STATUS = re.compile(rf"(?:/v\d+)?/[^/]+{_EXPORTS}/{_UUID}\Z", re.IGNORECASE)
_OF_A_JOB = re.compile(rf"{_JOB.pattern}\Z", re.IGNORECASE)
_LIST = re.compile(rf"{_EXPORTS}/?", re.IGNORECASE)


class Resource(Enum):
    """A kind of resource below the proxy's own segment."""

    DESCRIPTION = _DESCRIPTION
    PAGE = _PAGE
    LIST = _EXPORTS
    STATUS = ""
    RESULT = _RESULT
    CANCEL = _CANCEL


def parse(rest: str) -> tuple[Resource, str] | None:
    """The resource at the path `rest` below the segment, and the id of its job in lower case ("" if
    it has none). None if there is no such resource: an id that is not a UUIDv4 names none.
    """
    if rest.lower() == _DESCRIPTION:
        return Resource.DESCRIPTION, ""
    if rest == _PAGE:
        return Resource.PAGE, ""
    if _LIST.fullmatch(rest):
        return Resource.LIST, ""
    if found := _JOB.fullmatch(rest):
        return Resource((found[2] or "").lower()), found[1].lower()
    return None


class OwnPaths:
    """Recognises paths below `segment`, such as `_async`, with or without a version and below
    `prefix`, the path of `public.url` ("" or "/x"), or not.
    """

    def __init__(self, segment: str, prefix: str) -> None:
        base = rf"(?:{re.escape(prefix)})?/+(?:(v\d+)/+)?{re.escape(segment)}"
        self._pattern = re.compile(rf"({base})(/.*)?", re.IGNORECASE | re.DOTALL)

    def split(self, path: str) -> tuple[str, str | None, str] | None:
        """The raw path up to and with the segment, its version segment in lower case (None without
        one), and the rest. None if the path is not below the segment.
        """
        found = self._pattern.fullmatch(path)
        if found is None:
            return None
        base, api, rest = found.groups()
        return base, None if api is None else api.lower(), rest or ""


@dataclass(frozen=True, slots=True)
class Links:
    """The URLs of a job. `status` is the status monitor, and the others extend it (CONTRACT §2)."""

    status: str

    @property
    def result(self) -> str:
        """The URL of the file."""
        return self.status + _RESULT

    @property
    def cancel(self) -> str:
        """The URL to which a POST cancels the job."""
        return self.status + _CANCEL


def list_url(base: str, api: str | None, segment: str) -> str:
    """The URL of the list of jobs below the base URL, for the version segment `api`, if any."""
    version = "" if api is None else f"/{api}"
    return f"{base}{version}/{segment}{_EXPORTS}"


def job_links(base: str, api: str, segment: str, id: str) -> Links:
    """The URLs of the job `id` below the base URL, for the version segment `api`."""
    return Links(f"{list_url(base, api, segment)}/{id}")


def find_links(path: str) -> Links | None:
    """The URLs of a job relative to the base URL, found at the end of the path of its status URL.
    None if the path is not that of a job.
    """
    found = _STATUS.search(path)
    return None if found is None else Links(found[0])


def job_of(url: str) -> str | None:
    """The id of the job, in lower case, whose status or result has this URL, which may be
    relative. None if it has none.
    """
    found = _OF_A_JOB.search(url)
    return None if found is None else found[1].lower()


def description_url(base: str, segment: str) -> str:
    """The URL of the OpenAPI document below the base URL."""
    return f"{base}/{segment}{_DESCRIPTION}"

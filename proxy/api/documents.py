"""Job documents that were rendered last: clients ask for the same one again and again."""

from __future__ import annotations

from collections import OrderedDict

from proxy.core.job import Job
from proxy.core.job_document import body
from proxy.core.paths import Links

#: Documents that are kept, and bytes of the longest one: VB365's error may be in it.
_MOST, _LONGEST = 512, 4096


class Documents:
    """Renders job documents, and keeps the last ones: 2 MiB at most."""

    def __init__(self) -> None:
        self._rendered: OrderedDict[str, tuple[Job, Links, bytes]] = OrderedDict()

    def body(self, job: Job, links: Links) -> bytes:
        """Return the document of the job as JSON. One is used again only for an equal record and
        equal links.
        """
        found = self._rendered.get(job.id)
        if found is not None and (found[0] is job or found[0] == job) and found[1] == links:
            return found[2]
        content = body(job, links)
        if len(content) <= _LONGEST:
            self._rendered[job.id] = job, links, content
            self._rendered.move_to_end(job.id)
            if len(self._rendered) > _MOST:
                self._rendered.popitem(last=False)
        return content

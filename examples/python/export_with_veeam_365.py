import asyncio
import os
from uuid import UUID

import httpx
from veeam_365.client import VeeamClient
from veeam_365.v8.api.exchange_mailbox import (
    exchange_mailbox_export_mailbox_to_pst_action as export,
)
from veeam_365.v8.models.rest_export_folder_to_pst import RESTExportFolderToPst

_, _, _, session, _, _, mailbox, _ = os.environ["EXPORT"].split("/")


async def prefer_async(request: httpx.Request) -> None:
    if request.method == "POST" and request.url.path.lower().endswith(
        ("/exporttopst", "/save", "/export")
    ):
        request.headers["Prefer"] = "respond-async"


async def main() -> None:
    vc = VeeamClient(
        os.environ["VB365_URL"], os.environ["VB365_USERNAME"], os.environ["VB365_PASSWORD"], "v8"
    )
    vc._httpx_args["event_hooks"] = {"request": [prefer_async]}
    async with vc:
        await vc.connect()
        body = RESTExportFolderToPst(content_keyword="")
        started = await vc.call(export.asyncio_detailed, UUID(session), UUID(mailbox), body=body)
        print(started.status_code, started.headers["Location"])


asyncio.run(main())

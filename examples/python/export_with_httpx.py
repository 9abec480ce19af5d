import asyncio
import os

import httpx


async def main() -> None:
    fields = {"Authorization": f"Bearer {os.environ['VB365_TOKEN']}"}
    async with httpx.AsyncClient(
        base_url=os.environ["VB365_URL"], headers=fields, timeout=60
    ) as http:
        started = await http.post(
            os.environ["EXPORT"], json={}, headers={"Prefer": "respond-async"}
        )
        started.raise_for_status()
        job = started.headers["Location"]
        while (poll := await http.get(job)).status_code == 202:
            print(poll.json()["message"])
            await asyncio.sleep(int(poll.headers["Retry-After"]))
        if poll.raise_for_status().json()["status"] not in ("Success", "Warning"):
            raise SystemExit(poll.text)
        async with http.stream("GET", f"{job}/result") as download:
            download.raise_for_status()
            with open("mailbox.pst", "wb") as file:
                async for chunk in download.aiter_bytes():
                    file.write(chunk)


asyncio.run(main())

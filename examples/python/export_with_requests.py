import hashlib
import os
import time

import requests

http = requests.Session()
http.headers["Authorization"] = f"Bearer {os.environ['VB365_TOKEN']}"

started = http.post(
    os.environ["VB365_URL"] + os.environ["EXPORT"], json={}, headers={"Prefer": "respond-async"}
)
started.raise_for_status()
job = started.headers["Location"]

while (poll := http.get(job)).status_code == 202:
    print(poll.json()["message"])
    time.sleep(int(poll.headers["Retry-After"]))
poll.raise_for_status()
state = poll.json()
if state["status"] not in ("Success", "Warning"):
    raise SystemExit(f"{state['status']}: {state['error']}")

digest = hashlib.sha256()
with http.get(f"{job}/result", stream=True) as download, open("mailbox.pst", "wb") as file:
    download.raise_for_status()
    for chunk in download.iter_content(1 << 20):
        file.write(chunk)
        digest.update(chunk)
assert digest.hexdigest() == state["result"]["sha256"]

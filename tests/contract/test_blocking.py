"""No call of the proxy blocks the event loop, from the kick-off to the deletion."""

from __future__ import annotations

from pathlib import Path

import pytest
from blockbuster import BlockingError, blockbuster_ctx

from proxy.logs import __file__ as a_file_of_ours
from tests.contract.conftest import Stage


async def test_no_call_blocks_the_loop_from_kick_off_to_delete(stage: Stage) -> None:
    """§2: every resource is used once while blockbuster watches for blocking calls."""
    with blockbuster_ctx():
        with pytest.raises(BlockingError):
            Path(a_file_of_ours).stat()  # noqa: ASYNC240  # the proof that it watches
        status = await stage.done(Idempotency_Key="k1")
        assert (await stage.get(status + "/result")).body == stage.file()
        assert (await stage.get("/v8/_async/exports")).json()["results"]
        assert (await stage.ask("POST", status + "/cancel")).status == 200
        assert (await stage.ask("DELETE", status + "/result")).status == 204
        assert (await stage.ask("DELETE", status)).status == 204

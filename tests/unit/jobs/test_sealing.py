"""The credential safe (CONTRACT §9 `secrets.key`)."""

from __future__ import annotations

from cryptography.fernet import Fernet

from proxy.jobs.fernet_sealing import FernetSealer
from proxy.jobs.sealing import MemoryOnly

FIELDS = [(b"Authorization", b"Bearer canary"), (b"X-Odd", b"\xe9\xff")]


def test_sealed_fields_are_unsealed_and_reveal_nothing() -> None:
    safe = FernetSealer([Fernet.generate_key().decode()])
    sealed = safe.seal(FIELDS)
    assert sealed is not None
    assert "canary" not in sealed
    assert safe.unseal(sealed) == FIELDS


def test_keys_rotate() -> None:
    """The first key seals, every key opens; without the key nothing does."""
    old, new = Fernet.generate_key().decode(), Fernet.generate_key().decode()
    sealed = FernetSealer([old]).seal(FIELDS)
    assert sealed is not None
    assert FernetSealer([new, old]).unseal(sealed) == FIELDS
    assert FernetSealer([new]).unseal(sealed) is None
    assert MemoryOnly().unseal(sealed) is None


def test_without_a_key_nothing_is_sealed() -> None:
    assert MemoryOnly().seal(FIELDS) is None


def test_text_that_is_not_sealed_is_not_unsealed() -> None:
    """A damaged record waits for its owner's call; it breaks nothing."""
    safe = FernetSealer([Fernet.generate_key().decode()])
    assert [safe.unseal(text) for text in ("", "gAAAA", "\xe9", "x" * 1000)] == [None] * 4


def test_what_belongs_to_one_request_is_not_sealed() -> None:
    """§9, §15: a trace is passed on from memory only; a later attempt is no part of it."""
    safe = FernetSealer([Fernet.generate_key().decode()])
    sealed = safe.seal(
        [*FIELDS, (b"TraceParent", b"00-a-b-01"), (b"tracestate", b"x=y"), (b"X-Request-Id", b"1")]
    )
    assert sealed is not None
    assert safe.unseal(sealed) == FIELDS

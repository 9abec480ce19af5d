"""The value of `storage.artifacts` for buckets, and what is said of one that fails."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from obstore.exceptions import GenericError, PermissionDeniedError

from proxy.ports import StorageFull, StorageRefused, StoreUnavailable
from proxy.stores.object_artifacts.failures import Missing, store_errors
from proxy.stores.object_artifacts.location import Location
from proxy.stores.object_artifacts.store import ObjectArtifacts
from tests.support.object_stores import free_ports

SECRET = "wJalrXUtnFEMI"


@pytest.mark.parametrize(
    ("url", "kind", "bucket", "prefix"),
    [
        ("s3://exports", "s3", "exports", ""),
        ("s3://exports/", "s3", "exports", ""),
        ("s3://my.exports/vb365/prod?region=eu-central-1", "s3", "my.exports", "vb365/prod"),
        ("az://exports/prod?account=acme", "az", "exports", "prod"),
        ("gs://exports_1/prod", "gs", "exports_1", "prod"),
    ],
)
def test_a_location_is_a_bucket_and_a_prefix(url: str, kind: str, bucket: str, prefix: str) -> None:
    location = Location.parse(url)
    assert (location.kind, location.bucket, location.prefix) == (kind, bucket, prefix)
    assert str(location) == url.partition("?")[0].rstrip("/")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://exports", ["s3://, az:// or gs://"]),
        ("s3://", ["not the name of a bucket"]),
        ("s3://Exports", ["'Exports'", "not the name of a bucket"]),
        ("s3://exports/../other", ["'../other'", "prefix"]),
        ("s3://exports/a//b", ["'a//b'", "prefix"]),
        ("s3://exports?regoin=x", ["no option 'regoin'", "region"]),
        ("s3://exports?region=", ["region=''", "must not be empty"]),
        ("s3://exports?path_style=maybe", ["path_style='maybe'", "true or false"]),
        ("s3://exports?region=a&region=b", ["region is given twice"]),
        ("s3://exports?endpoint=minio:9000", ["endpoint='minio:9000'", "must be a URL"]),
        ("s3://exports?endpoint=http://[::1", ["endpoint='http://[::1'", "must be a URL"]),
        ("s3://exports?endpoint=http://minio:9000", ["not encrypted", "allow_http=true"]),
        ("gs://exports?anonymous=true", ["no option 'anonymous'"]),
        ("s3://exports#part", ["fragment"]),
    ],
)
def test_a_wrong_location_is_refused_with_the_fix(url: str, words: list[str]) -> None:
    with pytest.raises(ValueError) as refused:
        Location.parse(url)
    assert str(refused.value).startswith("storage.artifacts: ")
    for word in words:
        assert word in str(refused.value)


@pytest.mark.parametrize(
    ("url", "fix"),
    [
        (f"s3://key:{SECRET}@exports", "AWS_SECRET_ACCESS_KEY"),
        (f"s3://exports?secret_access_key={SECRET}", "AWS_SECRET_ACCESS_KEY"),
        (f"az://exports?account_key={SECRET}", "AZURE_STORAGE_ACCOUNT_KEY"),
        (f"az://exports?sas_token={SECRET}", "AZURE_STORAGE_SAS_TOKEN"),
        (f"gs://exports?service_account_key={SECRET}", "GOOGLE_SERVICE_ACCOUNT_KEY"),
    ],
)
def test_a_secret_in_the_location_is_refused_and_not_repeated(url: str, fix: str) -> None:
    with pytest.raises(ValueError) as refused:
        Location.parse(url)
    assert fix in str(refused.value)
    assert SECRET not in str(refused.value)


def test_a_certificate_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    location = Location.parse(f"s3://exports?ca_file={tmp_path}/none.pem")
    with pytest.raises(ValueError, match=r"ca_file .*none\.pem: No such file"):
        location.connect()


def test_a_profile_of_the_aws_tools_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    file = tmp_path / "credentials"
    file.write_text(f"[backup]\naws_access_key_id = AKIA\naws_secret_access_key = {SECRET}\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    Location.parse("s3://exports?profile=backup").connect()
    with pytest.raises(ValueError, match="profile 'other' has no aws_access_key_id"):
        Location.parse("s3://exports?profile=other").connect()
    monkeypatch.setenv("AWS_PROFILE", "other")
    with pytest.raises(ValueError, match="profile 'other'"):
        Location.parse("s3://exports").connect()


def answered(status: int, code: str) -> Exception:
    """As obstore reports a response; it quotes the URL, which may hold a signature."""
    return GenericError(
        f"Generic S3 error: Error performing PUT https://b/k?sig={SECRET} in 1ms - Server returned "
        f"non-2xx status code: {status}: <Error><Code>{code}</Code></Error>\n\nDebug source: ..."
    )


@pytest.mark.parametrize(
    ("why", "kind", "words"),
    [
        (answered(503, "SlowDown"), StoreUnavailable, "answered 503 SlowDown"),
        (answered(429, "TooManyRequestsQuota"), StoreUnavailable, "answered 429"),
        (answered(507, "InsufficientStorage"), StorageFull, "is full (507"),
        (answered(403, "QuotaExceeded"), StorageFull, "is full (403 QuotaExceeded)"),
        (PermissionDeniedError(answered(403, "AccessDenied")), StoreUnavailable, "credentials"),
        (FileNotFoundError(answered(404, "NoSuchBucket")), StoreUnavailable, "create the bucket"),
        (FileNotFoundError(answered(404, "NoSuchKey")), Missing, ""),
        (GenericError("kind: Connect"), StoreUnavailable, "cannot be reached"),
        (GenericError("kind: Timeout"), StoreUnavailable, "did not answer in time"),
        (GenericError("invalid peer certificate"), StoreUnavailable, "ca_file"),
        (OSError("something"), StoreUnavailable, "failed"),
        (MemoryError(), StoreUnavailable, "there is no memory"),
    ],
)  # fmt: skip
def test_a_failure_is_a_plain_sentence_without_secrets(
    why: Exception, kind: type[Exception], words: str
) -> None:
    storing = kind is StorageFull
    with pytest.raises(kind) as translated, store_errors("s3://exports", storing=storing):
        raise why
    assert words in str(translated.value)
    assert SECRET not in str(translated.value)
    assert translated.value.__suppress_context__


def test_a_full_bucket_is_not_available_for_other_requests() -> None:
    with pytest.raises(StoreUnavailable, match="answered 507"), store_errors("s3://exports"):
        raise answered(507, "InsufficientStorage")


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (413, "RequestBodyTooLarge"), (400, "EntityTooLarge"), (400, "InvalidRequest"),
        (400, "InvalidEncryptionAlgorithmError"), (405, "MethodNotAllowed"),
        (501, "NotImplemented"),
    ],
)  # fmt: skip
def test_what_every_repetition_would_get_again_is_a_refusal(status: int, code: str) -> None:
    """Only for a new object: a job whose bytes are refused fails, a request to read one does not
    say anything about the bytes.
    """
    with (
        pytest.raises(StorageRefused, match=rf"refused an object .*{status} {code}"),
        store_errors("s3://exports", storing=True),
    ):
        raise answered(status, code)
    with pytest.raises(StoreUnavailable), store_errors("s3://exports"):
        raise answered(status, code)


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (403, "InvalidAccessKeyId"), (403, "SignatureDoesNotMatch"), (401, "Unauthorized"),
        (403, "RequestTimeTooSkewed"), (400, "ExpiredToken"), (400, "AuthorizationHeaderMalformed"),
        (400, "RequestTimeout"), (400, "IncompleteBody"), (400, "BadDigest"),
        (400, "KMS.DisabledException"), (404, "NoSuchBucket"), (404, "ContainerNotFound"),
        (408, "RequestTimeout"), (409, "OperationAborted"), (429, "TooManyRequests"),
        (500, "InternalError"), (503, "SlowDown"),
    ],
)  # fmt: skip
def test_what_an_operator_or_time_corrects_is_waited_for(status: int, code: str) -> None:
    """§18: as a full disk, but resumable."""
    why = answered(status, code)
    with pytest.raises(StoreUnavailable), store_errors("s3://exports", storing=True):
        raise FileNotFoundError(why) if status == 404 else why


async def test_a_store_that_cannot_be_reached_says_so_soon(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "any")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    (port,) = free_ports(1)
    url = f"s3://exports?endpoint=http://127.0.0.1:{port}&allow_http=true"
    async with asyncio.timeout(20):
        with pytest.raises(StoreUnavailable, match="cannot be reached"):
            await ObjectArtifacts.at(Location.parse(url))


async def test_a_probe_stores_reads_and_removes(s3: str) -> None:
    store = await ObjectArtifacts.at(Location.parse(s3.format(prefix="probed")))
    await store.probe()
    assert await store.bucket.sizes("probe") == {}
    assert store.location().startswith("s3://tests/probed at http://127.0.0.1:")
    await store.close()


async def test_a_probe_of_a_bucket_that_does_not_exist_says_what_to_do(s3: str) -> None:
    url = s3.format(prefix="any").replace("//tests/", "//another/")
    with pytest.raises(StoreUnavailable, match="create the bucket, or correct"):
        await ObjectArtifacts.at(Location.parse(url))

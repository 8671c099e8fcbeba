"""A bucket of moto's server, listed and read as Amazon's is."""

import urllib.request
from collections.abc import Generator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

import indexing
from headrace.errors import DataError
from headrace.retrieval.sources import S3, Gone, Item


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Generator[str]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        server_url = f"http://{host}:{port}"
        # Its buckets are the process', not the server's: those of other tests would still be there.
        urllib.request.urlopen(f"{server_url}/moto-api/reset", data=b"").close()
        yield server_url
    finally:
        server.stop()


@pytest.fixture
def bucket(endpoint: str) -> Generator[Any]:
    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
    client.create_bucket(Bucket="house")
    try:
        yield client
    finally:
        client.close()


async def test_a_bucket_is_brought_over_by_its_etags(
    endpoint: str, bucket: Any, tmp_path: Path
) -> None:
    for n in range(3):
        bucket.put_object(
            Bucket="house", Key=f"docs/täg {n}+=~(1).md", Body=f"# D{n}\n\ntext".encode()
        )
    bucket.put_object(Bucket="house", Key="docs/empty/", Body=b"")
    bucket.put_object(Bucket="house", Key="other/x.md", Body=b"not this one")
    bucket.put_object(
        Bucket="house", Key="docs/täg 0+=~(1).md.access.json", Body=b'{"readers": ["ann"]}'
    )
    source = S3("s3", "house", prefix="docs/", endpoint=endpoint)
    try:
        async with indexing.world(tmp_path, source=source) as world:
            report = await world.sync()
            assert (report.items, report.added, report.failed) == (3, 3, 0)
            rows = {row.id: row async for row in world.store.documents(indexing.ALL)}
            first = rows["s3/docs/täg 0+=~(1).md"]
            assert first.readers == {"ann"}
            assert first.title == "D0"
            assert first.modified_s > 1_000_000_000
            bucket.put_object(Bucket="house", Key="docs/täg 1+=~(1).md", Body=b"changed")
            bucket.delete_object(Bucket="house", Key="docs/täg 2+=~(1).md")
            report = await world.sync()
            assert (report.changed, report.removed, report.unchanged) == (1, 1, 1)
            assert world.embedder.texts == ["changed"]
        gone = await source.fetch(Item(key="docs/none"), known="", limit_bytes=100)
        assert gone == Gone()
    finally:
        await source.close()


async def test_long_listings_go_on_page_by_page(endpoint: str, bucket: Any) -> None:
    for n in range(1005):
        bucket.put_object(Bucket="house", Key=f"{n:04}", Body=b"x")
    source = S3("s3", "house", endpoint=endpoint)
    try:
        assert len([item async for item in source.items()]) == 1005
    finally:
        await source.close()


async def test_a_bucket_that_is_not_there_deletes_nothing(endpoint: str) -> None:
    source = S3("s3", "nowhere", endpoint=endpoint)
    try:
        with pytest.raises(DataError, match="answered 404; nothing was deleted"):
            _ = [item async for item in source.items()]
    finally:
        await source.close()

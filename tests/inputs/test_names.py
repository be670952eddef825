"""Names in arguments and manifests, and the queries of web addresses."""

import pickle
from pathlib import Path

import pytest

from fer_batch.config import Limits
from fer_batch.errors import InputError
from fer_batch.inputs import names
from fer_batch.inputs.listing import list_videos
from fer_batch.inputs.names import NameResolver
from fer_batch.pipeline.guard import GuardedProbe
from tests.web import QUERY, SECRETS, Ranged, serve


def test_query_is_used_and_not_listed(sample: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Of a manifest, of its lines, and of an argument; also in the process that opens the files."""
    caplog.set_level("INFO")
    (tmp_path / "a.mp4").write_bytes(sample.read_bytes())
    (tmp_path / "list.txt").write_text(f"a.mp4{QUERY}\ngone.mp4{QUERY}\nwrong.mp4?jwt=S3cr3t\n")
    with serve(tmp_path) as url:
        listing = list_videos([f"{url}/list.txt{QUERY}", f"{url}/a.mp4{QUERY}"], allow_query=True)
        with GuardedProbe(Limits(), listing.queries) as probe:
            rows = probe(listing.sources).to_pylist()
    assert listing.queries[f"{url}/a.mp4"] == QUERY
    assert [(row["uri"], row["status"]) for row in rows] == [
        (f"{url}/a.mp4", "ok"),
        (f"{url}/gone.mp4", "failed"),
        (f"{url}/wrong.mp4", "failed"),
    ]
    assert listing.duplicates == 1
    stored = pickle.dumps((listing.sources.to_pylist(), rows, repr(listing), caplog.text))
    assert not any(secret in stored for secret in SECRETS)


def test_link_with_a_query_is_a_failed_video(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"a")
    links = [f"a.mp4{QUERY}", "a.mp4", "?C=S3cr3t", "notes.txt?S3cr3t"]
    (tmp_path / "index.html").write_text("".join(f'<a href="{link}">x</a>' for link in links))
    with serve(tmp_path, Ranged) as url:
        listing = list_videos([f"{url}/index.html"])
    rows = listing.sources.to_pylist()
    assert ["contains a query" in row["error"] for row in rows] == [False, True]
    assert "S3cr3t" not in str(rows)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("https://host/a.mp4?b", "two queries"),
        ("https://host/shard.tar?a", "is an archive with a query"),
        ("s3://bucket/a.mp4?a=b", "contains a password or a query"),
        ("https://user:word@host/a.mp4?a", "contains a password or a query"),
        ("https://host/b.mp4?a", "more than 1 addresses"),
    ],
)
def test_query_that_cannot_be_used_is_refused(
    address: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names, "MAX_QUERIES", 1)
    resolver = NameResolver(allow_query=True)
    assert resolver.normalize_address("HTTPS://host/a.mp4?a") == "https://host/a.mp4"
    assert resolver.queries == {"https://host/a.mp4": "?a"}
    with pytest.raises(InputError, match=message):
        resolver.resolve_line("", address)
    with pytest.raises(InputError, match="contains a password or a query"):
        NameResolver(allow_query=False).resolve_line("", address)

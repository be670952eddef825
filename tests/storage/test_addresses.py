"""Addresses: which are allowed, which contain a secret, and how messages show them."""

import pytest

from fer_batch.errors import InputError
from fer_batch.storage.addresses import (
    check_no_secrets,
    correct_address,
    hide_secrets,
    is_remote,
    normalize_address,
    split_query,
)
from fer_batch.terminal import escape_controls

SECRETS = (
    *("?secret=S3cr3t", "?key=S3cr3t", "?jwt=S3cr3t", "?auth=S3cr3t", "?Policy=x&Key-Pair-Id=S3cr3t"),
    *("?AWSAccessKeyId=S3cr3t", "?X-Amz%2DSignature=S3cr3t", ";token=S3cr3t", "#token=S3cr3t"),
    *("?a=1&token=S3cr3t", "?x/y?token=S3cr3t"),
)
MALFORMED = (
    *("http://[::1/x.mp4", "http://[::1]x/a.mp4", "https://host:port/a.mp4", "https://host:99999/a.mp4"),
    *("http://ho st/a.mp4", "http:///a.mp4", "https://", "s3://", "s3:///a.mp4", "http://a\\b/c.mp4"),
    *("http://host/a\x00.mp4", "s3://bucket/a\x1b[2J.mp4", "https://host/\udc80.mp4", "gs://b/\ud800.mp4"),
    "http://a::b/c.mp4",
)
OTHER_PROTOCOLS = (
    *("ftp", "sftp", "github", "hdfs", "webhdfs", "memory", "zip", "tar", "local", "dir", "dbfs", "smb"),
    *("simplecache::s3", "filecache::https", "zip::file", "blockcache::http", "az", "abfs", "oss", "a"),
)


@pytest.mark.parametrize(
    ("name", "remote"),
    [
        ("", False),
        ("/data/a.mp4", False),
        ("a://b", True),
        ("s3://bucket/a.mp4", True),
        ("https://host/a.mp4", True),
        ("file:///data/a.mp4", False),
        ("FILE:///data/a.mp4", False),
        ("zip::file:///data/a.mp4", True),
        ("simplecache::s3://bucket/a.mp4", True),
        ("/data/odd://name.mp4", False),
        ("./odd://name.mp4", False),
        ("data:video/mp4;base64,AAAA", False),
        ("C:/a.mp4", False),
    ],
)
def test_address_and_path_are_distinguished(name: str, remote: bool) -> None:
    assert is_remote(name) is remote


@pytest.mark.parametrize(
    "address",
    [
        "s3://bucket/a b?.mp4",
        "s3://bucket/year=2020/[a-c]*;x.mp4",
        "gs://bucket/a#b.mp4",
        "hf://datasets/user/name@main/a.mp4",
        "s3://arn:aws:s3:eu-west-1:123:accesspoint/name/clip@2x.mp4",
        "https://host:8080/%3Ftoken=/a@b.mp4",
        "http://[::1]:80/a.mp4",
        "https://bücher.example/漢字.mp4",
    ],
)
def test_allowed_address_is_unchanged_but_for_its_protocol(address: str) -> None:
    assert normalize_address(address) == hide_secrets(address) == address
    assert normalize_address(address.replace("s3://", "S3://").replace("https", "HTTPS")) == address


@pytest.mark.parametrize("protocol", OTHER_PROTOCOLS)
def test_other_protocols_are_refused(protocol: str) -> None:
    with pytest.raises(InputError, match=r"allowed are s3://, .*https:// and paths"):
        normalize_address(f"{protocol}://host/a.mp4")


@pytest.mark.parametrize("address", MALFORMED)
def test_malformed_address_is_refused_in_printable_words(address: str) -> None:
    with pytest.raises(InputError) as refused:
        normalize_address(address)
    assert escape_controls(str(refused.value)) == str(refused.value)


@pytest.mark.parametrize("query", SECRETS)
@pytest.mark.parametrize("base", ["https://host/a.mp4", "HTTP://host/", "http://[::1/x", "s3://bucket/a.mp4"])
def test_query_is_a_secret_that_no_message_shows(base: str, query: str) -> None:
    for check in (check_no_secrets, normalize_address):
        with pytest.raises(InputError, match="contains a password or a query") as refused:
            check(base + query)
        assert "S3cr3t" not in str(refused.value)
    assert "S3cr3t" not in split_query(base + query)[0]


@pytest.mark.parametrize(
    "address",
    [
        "https://user:S3cr3t@host/a.mp4",
        "https://S3cr3t@host/a.mp4",
        "https://user:S3/cr3t@S3cr3t/S3cr3t@host/a.mp4",
        "https://u:S3cr3t@[::1/a.mp4",
        "s3://key:S3cr3t@bucket/a.mp4",
        "ftp://user:S3cr3t@host/a.mp4",
        "https:/user:S3cr3t@host/a.mp4",
        "s3:key:S3cr3t@bucket/a.mp4?S3cr3t=1",
        "simplecache::https://user:S3cr3t@host/a.mp4?S3cr3t=1",
    ],
)
def test_password_is_a_secret_that_no_message_shows(address: str) -> None:
    with pytest.raises(InputError, match="contains a password") as refused:
        normalize_address(address)
    assert "S3cr3t" not in str(refused.value)


def test_missing_slash_is_corrected() -> None:
    assert correct_address("s3:/bucket/a") == correct_address("S3:bucket/a") == "s3://bucket/a"
    assert correct_address("s3://bucket/a") is None
    assert correct_address("C:/a") is None

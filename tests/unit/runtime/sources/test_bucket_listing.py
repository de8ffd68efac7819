"""The XML of a bucket's listing: valid variants of stores, and invalid documents."""

import pytest

from sundog_runtime.errors import LoadFailed
from sundog_runtime.sources.bucket_listing import BucketObject, ListingPage, page_query, parse_page

AMAZON = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
BOMB = """<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>"""


def contents(key: str, size: str, etag: str = "&quot;v1&quot;") -> str:
    return f"<Contents><Key>{key}</Key><ETag>{etag}</ETag><Size>{size}</Size></Contents>"


@pytest.mark.parametrize(
    ("written", "etag"), [("&quot;v1&quot;", '"v1"'), ("v1", '"v1"'), ('W/"v1"', 'W/"v1"'), ("", "")]
)
def test_an_etag_as_the_header_has_it(written: str, etag: str) -> None:
    page = parse_page(f"<ListBucketResult>{contents('a', '1', written)}</ListBucketResult>".encode(), "s3://models/a")
    assert page.objects[0].etag == etag


@pytest.mark.parametrize("namespace", [AMAZON, ""])
def test_a_page(namespace: str) -> None:
    text = (
        f"<?xml version='1.0' encoding='UTF-8'?><ListBucketResult {namespace}><Name>models</Name>"
        f"{contents('a/ü &amp; b', '7')}{contents('a/c', '0')}<IsTruncated>false</IsTruncated></ListBucketResult>"
    )
    assert parse_page(text.encode(), "s3://models/a") == ListingPage(
        (BucketObject("a/ü & b", 7, '"v1"'), BucketObject("a/c", 0, '"v1"')), ""
    )


def test_a_page_before_the_last() -> None:
    more = "<IsTruncated>true</IsTruncated><NextContinuationToken>1/+=</NextContinuationToken>"
    assert parse_page(f"<ListBucketResult>{more}</ListBucketResult>".encode(), "s3://models/a") == ListingPage(
        (), "1/+="
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "<html/>",
        "<ListBucketResult>",
        "<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>",
        f"<ListBucketResult>{contents('', '1')}</ListBucketResult>",
        f"<ListBucketResult>{contents('a', '')}</ListBucketResult>",
        f"<ListBucketResult>{contents('a', 'secret')}</ListBucketResult>",
        f"<ListBucketResult>{contents('a', '-1')}</ListBucketResult>",
        f"<ListBucketResult>{contents('a', '9' * 5000)}</ListBucketResult>",
        f"{BOMB}<ListBucketResult>{contents('&b;', '1')}</ListBucketResult>",
        "<!DOCTYPE x SYSTEM 'file:///etc/passwd'><ListBucketResult/>",
        "<ListBucketResult>" + "<a>" * 100_000,
    ],
)
def test_invalid_pages_are_refused(text: str) -> None:
    with pytest.raises(LoadFailed, match="s3://models/a: the store's answer is not a listing") as caught:
        parse_page(text.encode(), "s3://models/a")
    assert "secret" not in caught.value.message


def test_a_query_is_encoded_as_signatures_require() -> None:
    assert page_query("a b/ü+=&/") == "list-type=2&prefix=a%20b%2F%C3%BC%2B%3D%26%2F"
    assert page_query("a/", "1/+=") == "list-type=2&prefix=a%2F&continuation-token=1%2F%2B%3D"

"""Model URIs, and what the operator's API and the model server make of each."""

from typing import Final

COMMIT: Final = "0123456789abcdef0123456789abcdef01234567"
DIGEST: Final = "sha256:" + "a" * 64

GOOD: Final = (
    ("file:///models/digits/v2", ""),
    ("file:///models/a b@c/ü.pt", ""),
    ("pvc://models/digits/v2", ""),
    ("pvc://models", ""),
    ("pvc://models/", ""),
    ("https://example.com/m.safetensors", ""),
    ("https://example.com:8443/a/b/m.tar.gz", ""),
    ("https://127.0.0.1/m.pt2", ""),
    ("https://[2001:db8::1]:8443/m.zip", ""),
    ("s3://bucket/digits/v2", ""),
    ("s3://bucket/digits/v2/", ""),
    ("s3://my.bucket-1/a b/ü=1", ""),
    ("gs://bucket/model.tar", ""),
    (f"hf://owner/name@{COMMIT}", ""),
    (f"hf://owner/name@{COMMIT}/sub/model.safetensors", ""),
    (f"hf://gpt2@{COMMIT}", ""),
    ("hf://owner/name", DIGEST),
    ("hf://owner/name@main", DIGEST),
    (f"oci://registry.example.com/team/digits@{DIGEST}", ""),
    (f"oci://registry.example.com:5000/digits:v2@{DIGEST}", DIGEST),
    ("oci://registry.example.com/digits:v2", DIGEST),
)
"""URI and digest that both accept."""

REFUSED_BY_BOTH: Final = (
    ("", "", "does not begin with"),
    ("/models", "", "does not begin with"),
    ("file:/models", "", "does not begin with"),
    ("FILE:///models", "", "does not begin with"),
    ("http://example.com/m.pt", "", "does not begin with"),
    ("ftp://example.com/m.pt", "", "does not begin with"),
    ("s3:/bucket/key", "", "does not begin with"),
    ("file://", "", "below '/'"),
    ("s3://", "", "names the bucket"),
    ("https://", "", "names the host"),
    ("file:///models\nx", "", "control character"),
    ("https://example.com/m\x7f", "", "control character"),
)
"""What neither accepts, and what the model server says."""

REFUSED_BY_THE_MODEL_SERVER: Final = (
    ("file:///models/../etc", "", "'..'"),
    ("file:///models//x", "", "empty"),
    ("file:///models?x=1", "", "'?'"),
    ("file://host/models", "", "'host'"),
    ("pvc://models/../other", "", "'..'"),
    ("pvc://Models/x", "", "the claim 'Models'"),
    ("pvc:///x", "", "the claim ''"),
    ("https://user:secret@example.com/m.pt", "", "user information"),
    ("https://example.com/", "", "names no file"),
    ("https://example.com", "", "names no file"),
    ("https://example.com/models/", "", "names no file"),
    ("https://example.com/m.pt?token=secret", "", "'?'"),
    ("https://example.com/%2e%2e/m.pt", "", "'%'"),
    ("https://example.com/a/../m.pt", "", "'..'"),
    ("https://Example.com/m.pt", "", "the host 'Example.com'"),
    ("https://example.com:99999/m.pt", "", "the host"),
    ("https://example.com/a b.pt", "", "its path holds"),
    ("s3://bucket", "", "a whole bucket"),
    ("s3://bucket/", "", "a whole bucket"),
    ("s3://b/key", "", "the bucket 'b'"),
    ("s3://bucket/a//b", "", "empty"),
    ("s3://bucket/../other/key", "", "'..'"),
    ("s3://key:secret@bucket/key", "", "user information"),
    ("gs://bucket?x/key", "", "'?'"),
    ("hf://owner/name", "", "no revision"),
    ("hf://owner/name@main", "", "the revision 'main'"),
    ("hf://owner/name@0123456", "", "the revision '0123456'"),
    ("hf://owner/name/deep", "", "is not of the form"),
    ("hf://user:secret@owner/name", DIGEST, "user information"),
    (f"hf://owner/name@{COMMIT}/../x", "", "'..'"),
    ("oci://registry.example.com/digits", "", "no digest"),
    ("oci://registry.example.com/digits:v2", "", "the tag 'v2'"),
    ("oci://registry.example.com/digits@sha256:abc", "", "is not of the form"),
    ("oci://registry.example.com/Digits:v2", DIGEST, "is not of the form"),
    ("oci://user:secret@registry.example.com/digits:v2", DIGEST, "user information"),
    (f"oci://registry.example.com/digits@{DIGEST}", "sha256:" + "b" * 64, "pins"),
)
"""What the operator's API lets pass and the model server refuses, with what it says."""

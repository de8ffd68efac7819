"""Reasons why a revision or an arm did not start."""

from typing import Final

from reference.reasons.text import ReasonText

START_FAILURE_REASONS: Final = (
    ReasonText("retried", "ModelNotFound", "Nothing exists at `spec.model.uri`."),
    ReasonText("retried", "AccessDenied", "The model exists, but the replica has no permission to read it."),
    ReasonText("retried", "NoSpace", "The disk is full."),
    ReasonText("retried", "SourceUnavailable", "The store does not answer, or its answer is an error."),
    ReasonText("retried", "LoadTimeout", "Loading did not end in time."),
    ReasonText("retried", "WarmupTimeout", "The warm-up did not end within `spec.runtime.warmup.timeout`."),
    ReasonText(
        "retried",
        "DeployFailed",
        "Ray Serve gave up, and the model server reported no cause, for example because its process died.",
    ),
    ReasonText("final", "DigestMismatch", "The model's bytes do not match `spec.model.digest`."),
    ReasonText("final", "ModelTooLarge", "The model has too many files or bytes, or does not fit into memory."),
    ReasonText(
        "final",
        "SourceRefused",
        "The source leads to a forbidden address, or its archive holds an entry that is not allowed.",
    ),
    ReasonText("final", "FormatNotRecognised", "The model server found no file that it can load."),
    ReasonText("final", "CodeNotTrusted", "The model can run code, and `spec.model.trustCode` is not set."),
    ReasonText("final", "EntrypointMissing", "The model needs an entrypoint, and it is not set or does not exist."),
    ReasonText("final", "LoadFailed", "Loading raised an error. The message has its first useful line."),
    ReasonText("final", "WarmupFailed", "A warm-up request raised an error."),
)
"""The operator retries a start unless its failure is final."""

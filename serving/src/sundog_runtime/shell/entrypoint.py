"""Import the entrypoint of a local model in a process of its own: `sundog plan` runs it and prints the result."""

import json
import sys

from sundog_runtime.arguments import ModelArguments
from sundog_runtime.errors import StartError, one_line
from sundog_runtime.formats.load import describe_entrypoint
from sundog_runtime.sources.open_model import open_model


def main() -> int:
    """Read `spec.model` as JSON on standard input. Print a JSON object with `found`, or with `problem` if the import fails."""
    model = ModelArguments.model_validate(json.load(sys.stdin))
    # What the model's code prints must not come between.
    answer, sys.stdout = sys.stdout, sys.stderr
    try:
        result = {"found": describe_entrypoint(open_model(model.uri, model.digest), model)}
    except StartError as error:
        result = {"problem": one_line(f"{error.reason}: {error.message}")}
    json.dump(result, answer)
    return 0


if __name__ == "__main__":
    sys.exit(main())

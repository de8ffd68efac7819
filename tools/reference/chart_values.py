"""Render the table of the chart's values from values.yaml and its schema."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

from reference.markdown import GENERATED, table

CHART: Final = Path(__file__).parents[2] / "helm" / "sundog"
SCHEMA: Final = CHART / "values.schema.json"
VALUES: Final = CHART / "values.yaml"
_TOP: Final = f"""# Chart values

{GENERATED.format("helm/sundog/values.yaml and its schema")}

These are all values of the chart `helm/sundog`. `helm show readme` prints the same table.
`installation` is the configuration file of the operator, key by key.
The chart's schema refuses unknown keys and values of another type.

```sh
helm show values helm/sundog
```

## Values

"""


def render_page() -> str:
    """Return the page, as Markdown."""
    return _TOP + render_table().replace("](../../docs/", "](../")


def render_table() -> str:
    """Return the table as the chart's README has it."""
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    defaults = yaml.safe_load(VALUES.read_text(encoding="utf-8"))
    return table(("value", "default", "meaning"), _rows(schema, defaults))


def _rows(schema: dict[str, Any], defaults: Any, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield key, default and meaning of each value without further keys, in the schema's order."""
    for name, part in schema["properties"].items():
        default = (defaults or {}).get(name)
        if part.get("properties"):
            yield from _rows(part, default, f"{prefix}{name}.")
        elif name != "global":
            yield f"`{prefix}{name}`", f"`{json.dumps(default, ensure_ascii=False)}`", part["description"]

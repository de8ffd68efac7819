"""What rich prints, as text."""

import io
from typing import Any

from rich.console import Console


def printed(*parts: Any, width: int = 10_000, **options: Any) -> str:
    """Return what a console of this width prints of the parts; `options` are those of the console."""
    out = io.StringIO()
    for part in parts:
        Console(file=out, width=width, **options).print(part)
    return out.getvalue()


def printed_lines(*parts: Any, width: int = 10_000) -> list[str]:
    """Return the printed lines, with single spaces."""
    return [" ".join(line.split()) for line in printed(*parts, width=width).splitlines()]

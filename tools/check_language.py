"""Check the language of code and documents: `python tools/check_language.py`. Each finding is one line, `file:line: what to change`.

Code: docstrings, comments, texts and names of the product have no private or archaic words, and docstrings do not open with a clause.
Documents: the same words, sentences of at most 35 words, and lines of at most 100 columns outside of tables, code and links.
A word in backticks is a name and may stay.
"""

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
CODE = ("operator/src", "serving/src", "tools")
DOCUMENTS = ("*.md", "docs/**/*.md", "examples/**/*.md", "bench/README.md", "helm/sundog/README.md", "images/README.md")
# The archive of the benchmarks is left out because the benchmarks write its tables and texts from their records.
EXEMPT = ("docs/benchmarks/archive.md",)

WORDS = {
    "anew": "again",
    "but for": "except",
    "by itself": "alone",
    "ceilings?": "upper bound or limit",
    "hinders?|hindered": "block",
    "is to be had": "exists",
    "lets? go": "release",
    "mends?|mended": "fix",
    "nobody|somebody": "no one, or name the actor",
    "obeys?|obeyed": "execute",
    "ought": "should",
    "rooms?": "capacity, space or memory",
    "resting": "idle",
    "tells?|told": "show, report or print",
    "tried on": "retry",
    "whoever|whichever": "name the actor",
}
BANNED = re.compile(r"\b(?:" + "|".join(f"({words})" for words in WORDS).replace(" ", r"\s+") + r")\b", re.IGNORECASE)
BANNED_NAME = re.compile(r"(?:^|_)(rooms?|ceilings?|told|resting)(?:_|$)", re.IGNORECASE)
"""Words that no function, class, module, field or parameter has in its name."""
ADJECTIVES = {"late", "dead", "patience", "copies"}
"""Parameters and fields that do not say what they are of: `is_late`, `dead_arm`, `patience_s`."""
CLAUSE = re.compile(r"(What|Whatever|Whoever|Of|Those|As|But|By|Until|Since)\b")

MAX_COLUMNS = 100
MAX_WORDS = 35
FENCE = re.compile(r"\s*(```|~~~)")
INLINE_CODE = re.compile(r"`[^`]*`")
SENTENCE_END = re.compile(r"(?<=[.!?:;])[*_)\"]*\s+|\n\s*\n|\n\s*(?:[-*]|\d+\.)\s")


@dataclass(frozen=True)
class Finding:
    """A place and what is wrong there."""

    file: str
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.message}"


def check_code(file: str, source: str) -> Iterator[Finding]:
    """Check the docstrings, comments and texts of one Python module."""
    yield from _banned_name(file, 1, Path(file).stem)
    for node in ast.walk(ast.parse(source)):
        for name in _defined_names(node):
            yield from _banned_name(file, getattr(node, "lineno", 1), name)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield from _banned(file, node.lineno, node.value)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            opening = CLAUSE.match(ast.get_docstring(node) or "")
            if opening:
                line = node.body[0].lineno
                yield Finding(
                    file, line, f"docstring opens with {opening.group()}; expected an imperative or a noun phrase"
                )
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield from _banned(file, token.start[0], token.string)


def _defined_names(node: ast.AST) -> Iterator[str]:
    """Yield the names that a definition, parameter, keyword argument or field has."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.arg | ast.keyword) and node.arg:
        yield node.arg
    elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and not _is_count(node.annotation):
        yield node.target.id


def _is_count(annotation: ast.expr) -> bool:
    """Whether a field is a count, such as the late outcomes of several kinds."""
    return isinstance(annotation, ast.Name) and annotation.id in {"int", "NonNegativeInt"}


def _banned_name(file: str, line: int, name: str) -> Iterator[Finding]:
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name)
    if BANNED_NAME.search(words) or name in ADJECTIVES:
        yield Finding(
            file, line, f"name {name!r}: write a noun that says of what, such as free_capacity, upper_bound or is_late"
        )


def check_document(file: str, text: str) -> Iterator[Finding]:
    """Check one Markdown document."""
    prose = _without_code(text)
    yield from _banned(file, 1, prose)
    for number, line in enumerate(prose.splitlines(), 1):
        if (
            len(line) > MAX_COLUMNS
            and not line.lstrip().startswith(("|", "#", "!"))
            and "](" not in line
            and "://" not in line
        ):
            yield Finding(file, number, f"{len(line)} columns; expected at most {MAX_COLUMNS}")
    for start, sentence in _sentences(prose):
        words = len(re.findall(r"[\w'’-]+", re.sub(r"`[^`]*`|\]\([^)]*\)", "x", sentence)))
        if words > MAX_WORDS:
            number = prose.count("\n", 0, start) + 1
            yield Finding(file, number, f"sentence of {words} words; expected at most {MAX_WORDS}")


def _banned(file: str, first_line: int, text: str) -> Iterator[Finding]:
    text = INLINE_CODE.sub(lambda code: re.sub(r"\S", "x", code.group()), text)
    for found in BANNED.finditer(text):
        better = list(WORDS.values())[(found.lastindex or 1) - 1]
        yield Finding(
            file,
            first_line + text.count("\n", 0, found.start()),
            f"{' '.join(found.group().split())!r}: write {better}",
        )


def _without_code(text: str) -> str:
    """Blank fenced code; lines keep their numbers."""
    lines, fenced = [], False
    for line in text.splitlines():
        edge = FENCE.match(line) is not None
        lines.append("" if fenced or edge else line)
        fenced ^= edge
    return "\n".join(lines)


def _sentences(prose: str) -> Iterator[tuple[int, str]]:
    """Yield each sentence outside of tables and headings with its place."""
    prose = "\n".join("" if line.lstrip().startswith(("|", "#")) else line for line in prose.splitlines())
    start = 0
    for end in SENTENCE_END.finditer(prose):
        yield start, prose[start : end.start()]
        start = end.end()
    yield start, prose[start:]


def main() -> int:
    """Print what is found; return 1 if there is anything."""
    found: list[Finding] = []
    for folder in CODE:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if path != Path(__file__):
                found += check_code(str(path.relative_to(ROOT)), path.read_text(encoding="utf-8"))
    for pattern in DOCUMENTS:
        for path in sorted(ROOT.glob(pattern)):
            file = str(path.relative_to(ROOT))
            if file not in EXEMPT:
                found += check_document(file, path.read_text(encoding="utf-8"))
    for each in found:
        sys.stdout.write(f"{each}\n")
    return bool(found)


if __name__ == "__main__":
    raise SystemExit(main())

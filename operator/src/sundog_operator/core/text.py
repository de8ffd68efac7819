"""Text for numbers of things."""


def format_count(number: int, noun: str, plural: str = "") -> str:
    """Return a count with its noun, such as `1 copy` or `2 copies`. The plural adds an s unless `plural` is given."""
    return f"{number} {noun if number == 1 else plural or f'{noun}s'}"

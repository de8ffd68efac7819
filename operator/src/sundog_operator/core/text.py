"""Numbers of things in words."""


def format_count(number: int, noun: str, plural: str = "") -> str:
    """Such as `1 copy` and `2 copies`; the plural is with an s unless it is given."""
    return f"{number} {noun if number == 1 else plural or f'{noun}s'}"

"""What other libraries say of a broken file, in one short line."""

LIMIT = 300


def in_short(error: BaseException | str, limit: int = LIMIT) -> str:
    """An error's text on one line, its end left out where it is long: libraries print whole values and lists.

    Args:
        error: or a text.
        limit: characters that are kept.

    ```python
    >>> in_short(ValueError("a field\\n    is wrong"))
    'a field is wrong'

    ```
    """
    text = " ".join("".join(letter if letter.isprintable() else " " for letter in str(error)).split())
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


__all__ = ["in_short"]

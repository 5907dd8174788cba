"""HTML in which text can't become markup: whatever is not `Html` already is escaped.

Text from a bucket is also stripped of control and direction characters and cut to a bounded
length, so that a page shows what is there and nothing more.
"""

import html
import unicodedata

LONGEST = 2_000  #: characters of one piece of text


class Html(str):
    """Markup that may stand in a page as it is."""

    __slots__ = ()


Child = str | int | None  #: text unless it is Html


def clean(text: str, *, limit: int = LONGEST, lines: bool = False) -> str:
    r"""Return text without control characters, at most `limit` characters of it.

    >>> clean("a\x1b[31m\u202eb")
    'a[31mb'
    """
    cut = text if len(text) <= limit else text[: limit - 1] + "…"
    spaced = "".join(" " if c in "\t\r" or (c == "\n" and not lines) else c for c in cut)
    return "".join(c for c in spaced if c == "\n" or unicodedata.category(c)[0] != "C")


def element(tag: str, *children: Child, **attributes: str | int | None) -> Html:
    """Return one element. An underscore in an attribute's name stands for a dash.

    >>> element("p", "1 < 2", class_="note")
    '<p class="note">1 &lt; 2</p>'
    """
    words = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{html.escape(clean(str(value)))}"'
        for name, value in attributes.items()
        if value is not None
    )
    if tag in ("img", "meta", "br"):
        return Html(f"<{tag}{words}>")
    return Html(f"<{tag}{words}>{join(*children)}</{tag}>")


def join(*children: Child) -> Html:
    """Return the pieces after one another."""
    return Html("".join(_escaped(child) for child in children if child is not None))


def _escaped(child: str | int) -> str:
    return child if isinstance(child, Html) else html.escape(clean(str(child)))


def verbatim(text: str, *, limit: int) -> Html:
    """Return text with its lines kept, for reading as it is."""
    return Html(f"<pre>{html.escape(clean(text, limit=limit, lines=True))}</pre>")

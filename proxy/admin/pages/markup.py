"""HTML made of elements: text is escaped unless it is `Markup`."""

from __future__ import annotations

import html

from proxy.admin.pages.wording import visible

_VOID = {"img", "input", "rect"}


class Markup(str):
    """HTML that needs no escaping."""

    __slots__ = ()


def escaped(text: object) -> Markup:
    """Return text as HTML, with its invisible characters shown."""
    return text if isinstance(text, Markup) else Markup(html.escape(visible(text)))


def tag(name: str, /, *children: object, **attributes: object) -> Markup:
    """Return an element. An attribute that is None is left out, one that is True has no value.

    Underscores in names of attributes are hyphens; a last one is dropped (`class_`).
    """
    written = "".join(
        _attribute(key, value)
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    if name in _VOID:
        return Markup(f"<{name}{written}>" if name != "rect" else f"<{name}{written}/>")
    return Markup(f"<{name}{written}>{joined(*children)}</{name}>")


def joined(*children: object) -> Markup:
    """Return children one after another. None is left out."""
    return Markup("".join(escaped(child) for child in children if child is not None))


def _attribute(key: str, value: object) -> str:
    name = key.removesuffix("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{escaped(value)}"'

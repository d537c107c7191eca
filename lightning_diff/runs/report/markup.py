"""HTML as a tree, which is escaped when it is written; what runs say of the machine they ran on is shortened.

Text is never pasted into markup: `element` makes nodes of the standard library's ElementTree, whose writer escapes texts and
attributes. Only `style` and `script` are written as they are; `as_json` is safe inside of a script.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any
from xml.etree.ElementTree import Element, tostring

ABSOLUTE = re.compile(r"(?:file://|(?<![\w.:/\\~-])(?:~|[A-Za-z]:)?)(?:[/\\][^\s/\\'\",;:=<>|\[\]{}()]+)+[/\\]?")
UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")  # which no HTML may hold

Content = Element | str


def element(tag: str, *content: Content, **attributes: str | bool) -> Element:
    """A node. `class_` stands for class, `aria_label` for aria-label; True for an attribute without a value, False for none."""
    names = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items() if value is not False}
    node = Element(tag, {name: "" if value is True else printable(str(value)) for name, value in names.items()})
    last: Element | None = None
    for part in content:
        if isinstance(part, Element):
            node.append(part)
            last = part
        elif last is None:
            node.text = (node.text or "") + printable(part)
        else:
            last.tail = (last.tail or "") + printable(part)
    return node


def table(header: Sequence[str], rows: Iterable[Sequence[str]], caption: str) -> Element:
    """A table that scrolls in itself where the page is too narrow for it."""
    head = element("thead", element("tr", *(element("th", name, scope="col") for name in header)))
    body = element("tbody", *(element("tr", *(element("td", cell) for cell in row)) for row in rows))
    return element(
        "div", element("table", element("caption", caption), head, body), class_="wide", tabindex="0", role="group"
    )


def document(root: Element) -> str:
    """The whole page."""
    return f"<!DOCTYPE html>\n{tostring(root, encoding='unicode', method='html')}\n"


def in_script(json: str) -> str:
    """JSON that cannot end the script it stands in: < only occurs in its strings."""
    return json.replace("<", "\\u003c")


def printable(text: str) -> str:
    return UNPRINTABLE.sub("\ufffd", text)


def without_folders(text: str) -> str:
    """Absolute paths in a text, shortened to their last part: …/part."""
    return ABSOLUTE.sub(lambda found: _shortened(found[0]), text)


def plain(value: Any) -> Any:
    """A recipe's value with every absolute path in it shortened; one that has spaces in it as well."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, str):
        is_path = "\n" not in value and (PurePosixPath(value).is_absolute() or PureWindowsPath(value).is_absolute())
        return _shortened(value) if is_path else without_folders(value)
    return value


def _shortened(path: str) -> str:
    return f"…/{PureWindowsPath(path).name}"

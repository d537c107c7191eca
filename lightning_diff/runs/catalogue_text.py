"""What `lightning-diff describe` prints: the list of what there is, or one thing with its options."""

import inspect
import re
import shutil
import sys
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from textwrap import wrap
from typing import NamedTuple

from ..artifacts import places
from ..foundation.annotations import describe as in_words
from ..foundation.binding import Parameters, locate, nearest, signature
from ..foundation.errors import UserError
from ..foundation.source_signatures import Written, lineage, parameters
from ..foundation.sources import Defined, find
from . import catalogue
from .catalogue import Entry
from .recipe.validation import FACTS

ARGUMENT = re.compile(r"^( *)([\w*]+(?:, [\w*]+)*): (.*)$")


class Described(NamedTuple):
    """A docstring's parts: the text without what it says about arguments, and that, by argument."""

    text: str
    arguments: dict[str, str]


def everything() -> str:
    """One line for each thing, by kind; cut to the width of a terminal, whole in a file."""
    found = list(catalogue.entries())
    width = max(len(entry.name) for entry in found)
    limit = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    lines: list[str] = []
    for kind, group in groupby(found, key=lambda entry: entry.kind):
        members = list(group)
        where = "" if members[0].defined is None else f"  {members[0].path.rpartition('.')[0]}"
        lines += ["", f"{kind}{where}"]
        for entry in members:
            line = f"  {entry.name:<{width}}  {entry.summary}".rstrip()
            lines.append(line if limit is None or len(line) <= limit else f"{line[: limit - 3]}...")
    return "\n".join([*lines[1:], "", "lightning-diff describe NAME says more about one of them."])


def one(name: str) -> str:
    """All that bear this name, or what an import path leads to. UserError with the nearest name if there is nothing."""
    known = list(catalogue.entries())
    chosen = [entry for entry in known if name in (entry.name, entry.path)]
    chosen = chosen or [entry for entry in known if entry.name.lower() == name.lower()]
    if chosen:
        return "\n\n\n".join(_recipe(entry) if entry.defined is None else _defined(entry) for entry in chosen)
    path = name if "." in name else ""
    for start in ("", f"{catalogue.PACKAGE}."):
        if path and (found := find(start + path)) is not None:
            return _defined(Entry("", found.node.name, start + path, "", found))
    if places.is_one(places.find(name)):
        raise UserError(f"describe: {name} is a run or a model; lightning-diff doctor {name} tells of it")
    if not path:
        names = list(dict.fromkeys(entry.name for entry in known))
        raise UserError(f"describe: no {name}; {nearest(name, names, 'there are')}")
    return _imported(path)


def _recipe(entry: Entry) -> str:
    head = catalogue.header(Path(entry.path).read_text(encoding="utf-8"))
    use = f"lightning-diff new NAME --from {entry.name} copies it, comments and all."
    return f"{entry.name}  (packaged recipe)\n{entry.path}\n\n{head}\n\n{use}"


def _defined(entry: Entry) -> str:
    assert entry.defined is not None
    says = _split(entry.defined.docstring)
    arguments = {
        name: text for base in [*_bases(entry.defined)][::-1] for name, text in _split(base.docstring).arguments.items()
    }
    kind = f"  ({entry.kind})" if entry.kind else ""
    title = f"{entry.path}{kind}\n{entry.defined.source.path}:{entry.defined.node.lineno}"
    taken = parameters(entry.defined)
    if taken is None:
        taken = signature(locate(entry.path, "describe"))
    return _page(title, says.text, _options(taken, arguments))


def _imported(path: str) -> str:
    """What no source file tells for certain is imported and asked."""
    target = locate(path, "describe")
    says = _split(inspect.getdoc(target) or "")
    return _page(path, says.text, _options(signature(target), says.arguments))


def _page(title: str, text: str, options: Iterable[str]) -> str:
    return "\n\n".join(filter(None, [title, text, "\n".join(options)]))


def _bases(defined: Defined) -> Iterator[Defined]:
    yield from lineage(defined) if not defined.is_function else [defined]


def _options(taken: Parameters | None, says: dict[str, str]) -> Iterator[str]:
    named = [p for p in (taken or {}).values() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    if taken is None:
        yield "Its options are not told by its signature."
        return
    if not named:
        yield "No options."
        return
    yield "Options"
    for parameter in named:
        yield f"  {_declaration(parameter)}"
        text = says.get(parameter.name, "")
        yield from (f"      {line}" for line in wrap(text, 100))
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken.values()):
        yield "  and others, which it hands on"


def _declaration(parameter: inspect.Parameter) -> str:
    """Name, type and default; what is needed, and from where, if there is no default."""
    written = parameter.written if isinstance(parameter, Written) else in_words(parameter.annotation)
    kind = f": {written}" if written else ""
    if parameter.default is not parameter.empty:
        default = parameter.default if not isinstance(parameter.default, str) else repr(parameter.default)
        return f"{parameter.name}{kind} = {default}"
    return f"{parameter.name}{kind}  (needed{'; a recipe has it from the data' if parameter.name in FACTS else ''})"


def _split(docstring: str) -> Described:
    """Takes the section `Args:` out of a docstring; an entry for several arguments at once goes to each of them."""
    lines = docstring.splitlines()
    start = next((i for i, line in enumerate(lines) if line.strip() == "Args:"), None)
    if start is None:
        return Described(docstring, {})
    end = next(
        (i for i in range(start + 1, len(lines)) if lines[i].strip() and not lines[i].startswith(" ")), len(lines)
    )
    arguments: dict[str, str] = {}
    names: list[str] = []
    depth = min((len(line) - len(line.lstrip()) for line in lines[start + 1 : end] if line.strip()), default=0)
    for line in lines[start + 1 : end]:
        found = ARGUMENT.match(line)
        if found is not None and len(found[1]) == depth:
            names = found[2].split(", ")
            arguments |= dict.fromkeys(names, found[3].strip())
        elif line.strip():
            arguments |= {name: f"{arguments[name]} {line.strip()}" for name in names}
    text = "\n".join([*lines[:start], *lines[end:]])
    return Described(re.sub(r"\n{3,}", "\n\n", text).strip(), arguments)

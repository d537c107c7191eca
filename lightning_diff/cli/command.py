"""What every command's help has in common: names read from the registries, and no types between angle brackets."""

import re
from typing import Any

from typer.core import TyperCommand, TyperOption

from ..runs import choices

BRACED = re.compile(r"\{([^{}\n]+)\}(?:\.\.\.)?")  # typer's way to say in the usage line that an argument is needed
TYPED = re.compile(
    r"^(  \S[^\n<>]*?) <[\w\[\], ]+>(?:\.\.\.)?", re.M
)  # ... and of what type an argument is, in its own line
OPTIONAL = re.compile(r"\[(\[[^\[\]\n]+\])\](?:\.\.\.)?")  # ... and that one may be left out, which its metavar says


class Command(TyperCommand):
    """In the help of a command and of its options, {solvers}, {ode_solvers}, {churned}, {grids}, {methods}, {features}, {targets}
    and {recipes} stand for names, which are read only when help is printed."""

    def get_help(self, ctx: Any) -> str:  # of click, which typer keeps private
        open_ones = [option for option in self.params if isinstance(option, TyperOption) and "{" in (option.help or "")]
        if open_ones or "{" in (self.help or ""):
            names = _names()
            for option in open_ones:
                option.help = (option.help or "").format(**names)
            self.help = (self.help or "").format(**names)
        usage, newline, rest = super().get_help(ctx).partition("\n\n")
        usage = OPTIONAL.sub(r"\1", BRACED.sub(r"\1", usage))
        rest = TYPED.sub(lambda found: found[1].ljust(len(found[0])), rest)
        return "\n".join(line.rstrip() for line in f"{usage}{newline}{rest}".splitlines())


def _names() -> dict[str, str]:
    from ..runs import recipe

    solvers = choices.solvers()
    return {
        "solvers": choices.either(solvers.all),
        "ode_solvers": choices.either(solvers.ode),
        "churned": choices.either(solvers.churned),
        "grids": choices.either(choices.grids()),
        "methods": choices.either(choices.methods()),
        "features": choices.either(choices.features()),
        "targets": choices.either(choices.targets()),
        "recipes": ", ".join(recipe.packaged()),
    }

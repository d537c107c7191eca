"""Help that names the solvers there are: read from the registry only when help is printed, because that imports torch."""

from typing import Any

from typer.core import TyperCommand, TyperOption


class NamesSolvers(TyperCommand):
    """A command in whose options' help {solvers}, {ode_solvers} and {churned} stand for names."""

    def get_help(self, ctx: Any) -> str:  # of click, which typer keeps private
        open_ones = [option for option in self.params if isinstance(option, TyperOption) and "{" in (option.help or "")]
        if open_ones:
            from ..samplers import CHURNED, ODE_SOLVERS, SOLVERS, either

            names = {"solvers": either(SOLVERS), "ode_solvers": either(ODE_SOLVERS), "churned": either(CHURNED)}
            for option in open_ones:
                option.help = (option.help or "").format(**names)
        return super().get_help(ctx)

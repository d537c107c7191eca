"""Help that names the solvers there are: read from the registry when somebody asks for help, for that imports torch."""

from typing import Any

from typer.core import TyperCommand, TyperOption


class NamesSolvers(TyperCommand):
    """A command in whose options' help {solvers}, {ode_solvers} and {churned} stand for names."""

    def get_help(self, ctx: Any) -> str:  # of click, which typer keeps private
        from ..samplers import CHURNED, ODE_SOLVERS, SOLVERS, either

        names = {"solvers": either(SOLVERS), "ode_solvers": either(ODE_SOLVERS), "churned": either(CHURNED)}
        for option in self.params:
            if isinstance(option, TyperOption) and option.help:
                for name, text in names.items():
                    option.help = option.help.replace(f"{{{name}}}", text)
        return super().get_help(ctx)

"""Whether `trainer.logger` is right: trackers by name, by name with options, or as nodes."""

from typing import Literal, get_args

from ...foundation.binding import ANYTHING, Node, bind, is_node, nearest
from ...foundation.errors import UserError
from ...foundation.extras import how_to_install, is_installed

Name = Literal["tensorboard", "wandb"]
NAMES = get_args(Name)
PLACE = f"{__name__.rpartition('.recipe')[0]}.loggers"  # a function of each name, which takes its options


def check_loggers(choice: object) -> None:
    """Bind what `trainer.logger` names; UserError with the dotted key for what is misspelt, unfit or not installed."""
    from lightning.pytorch.loggers import Logger  # 4 s

    several = isinstance(choice, list)
    for i, each in enumerate(choice if isinstance(choice, list) else [choice]):
        key = f"trainer.logger.{i}" if several else "trainer.logger"
        if isinstance(each, dict) and not is_node(each):
            for name, options in each.items():
                _check_options(name, options, key)
        else:
            bind(each, Name | Logger if several else Name | Logger | bool | None, key)
            _refuse_absent(each, key)


def _check_options(name: object, options: object, key: str) -> None:
    if name not in NAMES:
        raise UserError(f"{key}.{name}: no tracker of that name; {nearest(str(name), NAMES, 'there are')}")
    fitting = bind(options, Node | None, f"{key}.{name}") or {}
    if "folder" in fitting:
        raise UserError(f"{key}.{name}.folder: is the run's; leave it out")
    bind({"_target_": f"{PLACE}.{name}", "folder": "", **fitting}, ANYTHING, f"{key}.{name}")
    _refuse_absent(name, f"{key}.{name}")


def _refuse_absent(name: object, key: str) -> None:
    if isinstance(name, str) and not is_installed(name):
        raise UserError(f"{key}: {name} is not installed: {how_to_install(name)}")

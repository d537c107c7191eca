"""lightning-diff recipes"""

from .as_json import AsJson, print_json


def recipes(as_json: AsJson = False) -> None:
    """List the packaged recipes, a line each.

    `train NAME` trains one, `describe NAME` says more of it, `new MINE --from NAME` copies it.
    """
    from ..runs import recipe_list

    found = recipe_list.packaged()
    if as_json:
        print_json({"recipes": [each._asdict() for each in found]})
    else:
        print(recipe_list.as_text(found))

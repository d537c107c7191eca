"""lightning-diff doctor"""

from .as_json import AsJson, print_json
from .options import Run


def doctor(folder: Run, as_json: AsJson = False) -> int:
    """Say what is in a run folder and what is broken.

    And what resuming would do. The exit code is 1 if anything is broken.
    """
    from ..runs import doctor as examining
    from ..runs import named

    home = named.home(named.find(folder))
    findings = examining.examine(home)
    is_broken = any(finding.kind == "broken" for finding in findings)
    if as_json:
        print_json({"run": home, "broken": is_broken, "findings": [finding._asdict() for finding in findings]})
    else:
        print(examining.as_text(findings))
    return int(is_broken)

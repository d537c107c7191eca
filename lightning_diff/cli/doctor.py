"""lightning-diff doctor"""

from .options import Run


def doctor(folder: Run) -> int:
    """Say what is in a run folder and what is broken.

    And what resuming would do. The exit code is 1 if anything is broken.
    """
    from ..runs import doctor as examining
    from ..runs import named

    findings = examining.examine(named.home(named.find(folder)))
    print(examining.as_text(findings))
    return int(any(finding.kind == "broken" for finding in findings))

"""The ledger of `benchmarks.faults`: one fault a line, and what they say together."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

LOST = "LOST"


def lines(ledger: Path) -> list[dict[str, Any]]:
    text = ledger.read_text().splitlines() if ledger.exists() else []
    return [json.loads(line) for line in text if line.endswith("}")]  # the last may be cut short


def report(ledger: Path, since: str | None = None) -> str:
    """How many of how many came out the same, of one commit: the ledger's last, if none is named."""
    found = lines(ledger)
    since = since or (found[-1]["commit"] if found else "")
    found = [line for line in found if line["commit"].startswith(since)]
    good = sum(line["outcome"] == "identical" for line in found)
    refused = sum(line["outcome"] == "refused in words" for line in found)
    text = [
        f"{good} of {len(found)} identical, {refused} refused in words, {len(found) - good - refused} LOST at commit {since}"
    ]
    for title, key in (("fault", "kind"), ("training", "training")):
        text.append(f"\n{title:32}{'faults':>8}{'identical':>11}{'refused':>9}{'LOST':>6}")
        counts = {
            name: Counter(line["outcome"] for line in found if line[key] == name)
            for name in {line[key] for line in found}
        }
        for name, count in sorted(counts.items()):
            text.append(
                f"{name:32}{count.total():8}{count['identical']:11}{count['refused in words']:9}{count[LOST]:6}"
            )
    lost = {(line["seed"], line["trial"]): line for line in found if line["outcome"] == LOST}
    text += [
        f"\nLOST: --seed {seed} --trial {trial} ({line['training']}): {line['found'][0][:300]}"
        for (seed, trial), line in lost.items()
    ]
    return "\n".join(text)


def said(faults: Sequence[dict[str, Any]], number: object, seconds: float) -> str:
    where = ", ".join(f"{fault['kind']} at {fault['where']}" for fault in faults) or "ended before its faults"
    outcome = next((fault["outcome"] for fault in faults if fault["outcome"] != "identical"), "identical")
    training = faults[0]["training"] if faults and "training" in faults[0] else ""
    more = [f"\n    {part}" for fault in faults[:1] for part in fault.get("found", [])]
    return f"{number!s:>6} {seconds:5.1f} s  {outcome:17}{training:30}{where}{''.join(more)}"

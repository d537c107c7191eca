"""What identifies a fault in the message about it: the key or option, the file, the value, the name that was meant."""

import re


def tells(message: str, facts: str) -> bool:
    """Whether the message holds these facts as whole words and in order.

    `...` stands for any text, and so does what follows the last fact; without it the message begins with the first.
    """
    parts = [rf"(?<!\w){re.escape(part)}(?!\w)" if part else "" for part in re.split(r"\s*\.\.\.\s*", facts)]
    return re.match(".*?".join(parts), message, re.DOTALL) is not None

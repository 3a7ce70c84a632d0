"""What preparation noted of a scan, as kinds of findings."""

import re


def kind_of(finding: str) -> str:
    """Return a finding without its numbers, which do not make it another one: "139 ml of ..." is "# ml of ..."."""
    return re.sub(r"[0-9.]+", "#", finding)

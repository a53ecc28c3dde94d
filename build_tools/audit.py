"""Known vulnerabilities of pinned requirements, as pip-audit finds them, where it can be asked."""

from __future__ import annotations

import json
import re
import subprocess
import sys


def audit(requirements: str) -> int:
    """Print what is known of the requirements; return 1 where any is vulnerable."""
    command = ["pip_audit", "--format", "json", "--progress-spinner", "off"]
    command += ["--no-deps", "--disable-pip", "--requirement", requirements]
    done = subprocess.run(
        [sys.executable, "-m", *command], capture_output=True, text=True, check=False
    )
    try:
        found = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        said = (done.stderr.strip().splitlines() or ["it printed nothing"])[-1]
        # Of errors within errors, the innermost is the reason.
        reason = re.sub(r"[\"']\)+$", "", said.rpartition(": ")[2])
        print(f"{requirements} was not audited: {reason}")
        return 0
    vulnerable = [entry for entry in found if entry.get("vulns")]
    for entry in vulnerable:
        known = ", ".join(vulnerability["id"] for vulnerability in entry["vulns"])
        print(f"{entry['name']} {entry['version']} is vulnerable: {known}")
    skipped = sum("skip_reason" in entry for entry in found)
    print(f"{len(found) - skipped} of {len(found)} requirements audited")
    return 1 if vulnerable else 0


if __name__ == "__main__":
    sys.exit(audit(sys.argv[1]))

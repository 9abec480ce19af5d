"""Writes the bill of materials (CycloneDX 1.6, JSON) of an environment that has the proxy and its
runtime lock installed: `make dist`. The packages come from cyclonedx-py; the libraries of the
dashboard, which are files of the wheel, are added.

Usage: sbom.py PYTHON OUTPUT, with cyclonedx-bom importable.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

ROOT = Path(__file__).parents[1]
VENDOR = ROOT / "proxy" / "admin" / "static" / "vendor"
NAME = "vb365-async-proxy"
#: The libraries of the dashboard by their npm names, with the file that begins with the version.
LIBRARIES = {"uplot": "uPlot.esm.js", "@picocss/pico": "pico.min.css"}


def packages(python: str) -> dict[str, Any]:
    """The bill of the packages that are installed for the interpreter."""
    options = ("--pyproject", str(ROOT / "pyproject.toml"), "--output-reproducible", "--sv", "1.6")
    command = (sys.executable, "-m", "cyclonedx_py", "environment", *options, python)
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    bill: dict[str, Any] = json.loads(done.stdout)
    return bill


def library(name: str, file: str) -> dict[str, Any]:
    """A library of the dashboard, under the MIT licence."""
    head = (VENDOR / file).read_text(encoding="utf-8")[:400]
    found = re.search(r"\bv(\d+\.\d+\.\d+)\b", head)
    if found is None:
        sys.exit(f"{file} does not begin with its version")
    sums = dict(
        reversed(line.split()) for line in (VENDOR / "SHA256SUMS").read_text("ascii").splitlines()
    )
    purl = f"pkg:npm/{name.replace('@', '%40')}@{found[1]}"
    return {
        "type": "library",
        "bom-ref": purl,
        "name": name,
        "version": found[1],
        "purl": purl,
        "licenses": [{"license": {"id": "MIT"}}],
        "hashes": [{"alg": "SHA-256", "content": sums[file]}],
    }


def main() -> None:
    """Write the bill. Exits with a message if it is not valid."""
    python, output = sys.argv[1:]
    bill = packages(python)
    init = (ROOT / "proxy" / "__init__.py").read_text(encoding="utf-8")
    version = re.search(r'^__version__ = "(.+)"$', init, re.MULTILINE)
    root = bill["metadata"]["component"]
    root |= {"version": version[1], "purl": f"pkg:pypi/{NAME}@{version[1]}"} if version else {}
    vendored = [library(*each) for each in LIBRARIES.items()]
    bill["components"] += vendored
    depends = next(each for each in bill["dependencies"] if each["ref"] == root["bom-ref"])
    depends["dependsOn"] += [each["bom-ref"] for each in vendored]
    bill["dependencies"] += [{"ref": each["bom-ref"]} for each in vendored]
    text = json.dumps(bill, indent=2) + "\n"
    if error := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
        sys.exit(f"the bill is not valid: {error}")
    Path(output).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

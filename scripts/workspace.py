"""Asserts from `cargo metadata` how the workspace is layered, and that every
dependency has a licence that the project can live with.

Arrows point down only: a crate may depend on crates of lower floors, and
within floor 1 without cycles, which cargo itself refuses. Services never
depend on services.
"""

import json
import re
import subprocess
import sys

FLOORS = {
    "protocol": 0,
    "bus": 1,
    "identity": 1,
    "limits": 1,
    "service": 1,
    "socketio": 1,
    "transport": 1,
    "agent": 2,
    "auth": 2,
    "gateway": 2,
    "orchestrator": 2,
    "relay": 2,
    "router": 2,
    "signalbox": 3,
}
# Used by tests alone: nothing may depend on them in what ships.
DEVELOPMENT = {"testkit", "e2e"}

LICENCES = {
    "0BSD", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0",
    "CC0-1.0", "CDLA-Permissive-2.0", "ISC", "MIT", "MIT-0", "Unicode-3.0", "Unlicense", "Zlib",
}


def noun(name):
    return name.removeprefix("signalbox-")


def layers(members):
    for package in members:
        upper = noun(package["name"])
        if upper not in FLOORS and upper not in DEVELOPMENT:
            yield f"{upper}: give it a floor in scripts/workspace.py"
            continue
        for dependency in package["dependencies"]:
            lower = noun(dependency["name"])
            if dependency["kind"] == "dev" or lower not in FLOORS.keys() | DEVELOPMENT:
                continue
            if upper in DEVELOPMENT:
                continue
            if lower in DEVELOPMENT:
                yield f"{upper} must not depend on {lower}, which is for tests"
            elif FLOORS[lower] > FLOORS[upper] or (FLOORS[lower] == FLOORS[upper] and FLOORS[upper] != 1):
                yield f"{upper} (floor {FLOORS[upper]}) must not depend on {lower} (floor {FLOORS[lower]})"


def licences(packages):
    for package in packages:
        expression = package["license"]
        if expression is None:
            if package["license_file"] is None:
                yield f"{package['name']} {package['version']} has no licence"
            continue
        # Good enough for the expressions in use: one acceptable alternative,
        # all of whose parts are acceptable.
        alternatives = re.split(r"\s+OR\s+|/", expression.replace("(", "").replace(")", ""))
        if not any(all(part.strip() in LICENCES for part in re.split(r"\s+AND\s+", one)) for one in alternatives):
            yield f"{package['name']} {package['version']}: licence {expression}"


def main():
    command = ["cargo", "metadata", "--format-version", "1", "--locked"]
    metadata = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    ids = set(metadata["workspace_members"])
    members = [package for package in metadata["packages"] if package["id"] in ids]
    problems = [*layers(members), *licences(metadata["packages"])]
    for problem in problems:
        print(f"workspace: {problem}", file=sys.stderr)
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()

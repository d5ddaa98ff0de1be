#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Counts the tests in a result file: count.py meson|go|junit|line FILE

Prints `PASSED FAILED SKIPPED`; the names of failed tests go to stderr. A test program that dies
before it names a failed test counts as one failure, so no crash is lost.
"""
import json
import re
import sys
import xml.etree.ElementTree as ElementTree


class Tally:
    def __init__(self):
        self.passed = self.failed = self.skipped = 0

    def add(self, name, outcome):
        if outcome == "pass":
            self.passed += 1
        elif outcome == "skip":
            self.skipped += 1
        else:
            self.failed += 1
            print(f"failed: {name}", file=sys.stderr)


CMOCKA = re.compile(r"^\[\s*(OK|FAILED|SKIPPED)\s*\] (?!TEST)(\S+)\s*$", re.M)
TAP = re.compile(r"^(not )?ok \d+\b[ -]*([^#\n]*)(# SKIP)?", re.M | re.I)


def cases_in_output(output):
    """The single tests that a program reports on its output, as (name, outcome)."""
    found = {}
    for word, name in CMOCKA.findall(output):
        outcome = {"OK": "pass", "FAILED": "fail", "SKIPPED": "skip"}[word]
        if found.get(name) != "fail":
            found[name] = outcome
    if found:
        return list(found.items())
    return [(name.strip() or "?", "skip" if skip else "fail" if no else "pass")
            for no, name, skip in TAP.findall(output)]


def count_meson(path, tally):
    for line in open(path, encoding="utf-8"):
        program = json.loads(line)
        name, result = program["name"], program["result"]
        if result in ("SKIP", "IGNORED"):
            tally.add(name, "skip")
            continue
        cases = cases_in_output(program.get("stdout", "") + "\n" + program.get("stderr", ""))
        for case, outcome in cases:
            tally.add(f"{name}: {case}", outcome)
        good = result in ("OK", "EXPECTEDFAIL")
        if not cases or (not good and all(outcome != "fail" for _, outcome in cases)):
            tally.add(f"{name} ({result}, exit {program.get('returncode')})",
                      "pass" if good else "fail")


def count_go(path, tally):
    outcomes, package_failed = {}, False
    for line in open(path, encoding="utf-8"):
        if not line.startswith("{"):
            continue
        event = json.loads(line)
        action = event.get("Action")
        if action in ("build-fail", "fail") and not event.get("Test"):
            package_failed = True
        if not event.get("Test"):
            continue
        if action == "run":
            outcomes.setdefault(event["Test"], "unfinished")
        elif action in ("pass", "fail", "skip"):
            outcomes[event["Test"]] = action
    parents = {name.rsplit("/", 1)[0] for name in outcomes if "/" in name}
    failed_leaves = [name for name, outcome in outcomes.items()
                     if name not in parents and outcome in ("fail", "unfinished")]
    for name, outcome in outcomes.items():
        if name not in parents:
            tally.add(name, outcome)
        elif outcome == "fail" and not any(leaf.startswith(name + "/") for leaf in failed_leaves):
            tally.add(name, "fail")
    if package_failed and tally.failed == 0:
        tally.add("the package (it did not build, or it died)", "fail")


def count_junit(path, tally):
    for case in ElementTree.parse(path).getroot().iter("testcase"):
        tags = {child.tag for child in case}
        outcome = "fail" if tags & {"failure", "error"} else "skip" if "skipped" in tags else "pass"
        tally.add(f"{case.get('classname')}.{case.get('name')}", outcome)


def count_line(path, tally):
    """The last line that counts, as our own test programs print it."""
    lines = re.findall(r"^(\d+) passed, (\d+) failed(?:, (\d+) skipped)?$",
                       open(path, encoding="utf-8").read(), re.M)
    if lines:
        tally.passed, tally.failed, tally.skipped = (int(n or 0) for n in lines[-1])


def main():
    tally = Tally()
    {"meson": count_meson, "go": count_go, "junit": count_junit, "line": count_line}[sys.argv[1]](
        sys.argv[2], tally)
    print(tally.passed, tally.failed, tally.skipped)


if __name__ == "__main__":
    main()

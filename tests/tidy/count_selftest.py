#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Feeds scripts/count.py result files of every form, crashes included, and compares its counts."""
import json
import os
import subprocess
import sys
import tempfile

COUNT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "scripts", "count.py")
CMOCKA = "[==========] Running 2 test(s).\n[ RUN      ] a\n[       OK ] a\n[ RUN      ] b\n"


def meson(result, output="", code=0):
    return json.dumps({"name": "t", "result": result, "stdout": output, "returncode": code}) + "\n"


def go(*events):
    return "".join(json.dumps(dict(zip(("Action", "Test"), event))) + "\n" for event in events)


CASES = [
    ("meson", "no cases: the program is the test", meson("OK"), "1 0 0"),
    ("meson", "cmocka", meson("OK", CMOCKA + "[       OK ] b\n"), "2 0 0"),
    ("meson", "cmocka, one fails", meson("FAIL", CMOCKA + "[  FAILED  ] b\n", 1), "1 1 0"),
    ("meson", "cmocka, listed again in the summary",
     meson("FAIL", CMOCKA + "[  FAILED  ] b\n[  FAILED  ] 1 test(s), listed below:\n"
           "[  FAILED  ] b\n", 1), "1 1 0"),
    ("meson", "cmocka, dies in b", meson("FAIL", CMOCKA, -11), "1 1 0"),
    ("meson", "cmocka, skips b", meson("OK", CMOCKA + "[  SKIPPED ] b\n"), "1 0 1"),
    ("meson", "a leak after all passed", meson("FAIL", CMOCKA + "[       OK ] b\n", 23), "2 1 0"),
    ("meson", "timeout", meson("TIMEOUT"), "0 1 0"),
    ("meson", "skipped program", meson("SKIP", code=77), "0 0 1"),
    ("meson", "TAP",
     meson("FAIL", "1..3\nok 1 - a\nnot ok 2 - b\nok 3 - c # SKIP no\n", 1), "1 1 1"),
    ("meson", "two programs", meson("OK") + meson("FAIL", code=1), "1 1 0"),
    ("go", "pass, fail, skip", go(("run", "A"), ("pass", "A"), ("fail", "B"), ("skip", "C"),
                                  ("fail",)), "1 1 1"),
    ("go", "parents don't count", go(("run", "A"), ("pass", "A/x"), ("pass", "A/y"), ("pass", "A")),
     "2 0 0"),
    ("go", "a parent fails by itself", go(("pass", "A/x"), ("fail", "A"), ("fail",)), "1 1 0"),
    ("go", "a child fails",
     go(("pass", "A/x"), ("fail", "A/y"), ("fail", "A"), ("fail",)), "1 1 0"),
    ("go", "dies in the middle", go(("pass", "A"), ("run", "B"), ("fail",)), "1 1 0"),
    ("go", "does not build", go(("build-fail",), ("fail",)), "0 1 0"),
    ("go", "no test", go(("pass",)), "0 0 0"),
    ("junit", "all four", "<testsuites><testsuite><testcase name='a'/><testcase name='b'><failure/>"
     "</testcase><testcase name='c'><skipped/></testcase><testcase name='d'><error/></testcase>"
     "</testsuite></testsuites>", "1 2 1"),
    ("line", "the last counts", "3 passed, 0 failed\nx\n5 passed, 1 failed, 2 skipped\n", "5 1 2"),
    ("line", "none", "hello\n", "0 0 0"),
]


def main():
    passed = failed = 0
    for form, name, text, want in CASES:
        with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            have = subprocess.run([sys.executable, COUNT, form, file.name], text=True, check=False,
                                  stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout.strip()
        passed += have == want
        failed += have != want
        if have != want:
            print(f"{form}: {name}: want {want}, have {have}")
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

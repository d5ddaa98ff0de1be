#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Plants each bug of tests/sim/bugs in a copy of the tree and sees whether the simulator finds it.

    plant.py [--seeds N] [--jobs J] [--work DIR] [--table] [NAME ...]

A bug is a patch against production code, with one line before it that says what it is and which of
the known traps it stands for. The tree without any must pass the same seeds. The last line has how
many were found; the exit status is 1 if that is less than PERCENT of them, or if a patch does not
apply or build. With --table the results take their places in the table of tests/sim/bugs/found.md.
"""
import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUGS = os.path.join(ROOT, "tests", "sim", "bugs")
TABLE = os.path.join(BUGS, "found.md")
RULE = "|---|---|---|---|---|\n"
PERCENT = 95
LEFT_OUT = {".git", "build", ".cache", "__pycache__"}


def run(command, **options):
    return subprocess.run(command, text=True, errors="replace", stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, check=False, **options)


class Tree:
    """A copy of the sources with a build folder of its own."""

    def __init__(self, work, jobs):
        self.source = os.path.join(work, "tree")
        self.build = os.path.join(work, "build")
        self.jobs = str(jobs)
        shutil.copytree(ROOT, self.source, symlinks=True,
                        ignore=lambda _, names: [n for n in names if n in LEFT_OUT])
        result = run(["meson", "setup", self.build, self.source, "-Dbuildtype=debugoptimized"])
        if result.returncode:
            sys.exit(result.stdout)

    def patch(self, path, *options):
        return run(["patch", "-p1", "--batch", "--no-backup-if-mismatch", "-i", path, *options],
                   cwd=self.source)

    def compile(self):
        return run(["ninja", "-j", self.jobs, "-C", self.build, "tests/sim/sim"])

    def simulate(self, seeds):
        """The number of runs, and the first line about a failure ("" if there is none)."""
        result = run([os.path.join(self.build, "tests", "sim", "sim"), "--seeds", f"1..{seeds}",
                      "--failures", "1", "--jobs", self.jobs])
        failed = re.search(r"^FAILED seed .*$", result.stdout, re.M)
        done = re.search(r"^(\d+) seeds, \d+ failed\b", result.stdout, re.M)
        return int(done.group(1)) if done else 0, failed.group(0) if failed else ""


def try_bug(tree, name, seeds):
    """One line about it, whether it was found (None: it is no bug yet), and after how many runs."""
    path = os.path.join(BUGS, name + ".patch")
    if tree.patch(path, "--dry-run").returncode:
        return "the patch does not apply", None, 0
    tree.patch(path)
    built = tree.compile()
    if built.returncode:
        tree.patch(path, "--reverse")
        return "it does not build:\n" + built.stdout[-2000:], None, 0
    begin = time.monotonic()
    runs, failure = tree.simulate(seeds)
    took = time.monotonic() - begin
    tree.patch(path, "--reverse")
    if not failure:
        return f"NOT FOUND in {runs} seeds, {took:.0f} s", False, runs
    return f"found after {runs} seeds, {took:.0f} s: {failure}", True, runs


def row(name, text, runs):
    """The line of the table about a bug, from what try_bug() says."""
    with open(os.path.join(BUGS, name + ".patch"), encoding="utf-8") as f:
        about = f.readline().strip().rstrip(".")
    traps = re.search(r" \(traps? ([0-9A-Z, ]+)\)$", about)
    check = re.search(r": FAILED seed \d+(?: at [\d.]+ s)?: ((?:watch: |lease: )?[^:]*)", text)
    cells = [name, about[:traps.start()] if traps else about, traps.group(1) if traps else "-",
             check.group(1) if check else "**not found**", str(runs)]
    return "| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |"


def write_table(rows):
    """Rows by name; those of other bugs stay, those of bugs that are no more go."""
    with open(TABLE, encoding="utf-8") as f:
        head, rule, old = f.read().partition(RULE)
    for line in old.splitlines():
        name = line[2:].split(" ", maxsplit=1)[0]
        if os.path.exists(os.path.join(BUGS, name + ".patch")):
            rows.setdefault(name, line)
    with open(TABLE, "w", encoding="utf-8") as f:
        f.write(head + rule + "".join(rows[name] + "\n" for name in sorted(rows)))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--seeds", type=int, default=20000)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--work", help="a folder that is made and stays")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("names", nargs="*")
    options = parser.parse_args()
    names = options.names or sorted(f[:-6] for f in os.listdir(BUGS) if f.endswith(".patch"))
    work = options.work or tempfile.mkdtemp(prefix="cairn-plant-")
    tree = Tree(work, options.jobs)
    if tree.compile().returncode:
        sys.exit("the tree does not build")
    _, failure = tree.simulate(min(options.seeds, 2000))
    print("without a bug:", failure or "passed", flush=True)
    found, missed, broken, rows = [], [], ["without"] if failure else [], {}
    for name in names:
        text, result, runs = try_bug(tree, name, options.seeds)
        print(f"{name}: {text}", flush=True)
        (broken if result is None else found if result else missed).append(name)
        if result is not None:
            rows[name] = row(name, text, runs)
    if options.table:
        write_table(rows)
    if not options.work:
        shutil.rmtree(work)
    total = len(found) + len(missed)
    print(f"{len(found)} of {total} found; missed: {' '.join(missed) or '-'}; "
          f"broken: {' '.join(broken) or '-'}")
    return 1 if broken or 100 * len(found) < PERCENT * total else 0


if __name__ == "__main__":
    sys.exit(main())

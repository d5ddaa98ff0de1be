#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs the unit programs of a build folder with their threads delayed at random (see README.md).

  tests/shake/shake.py --build build/release --rounds 20 --jobs 6 'api/|server/watch'

Each failure is shown with its seed; the output is in the folder of --out.
"""
import argparse
import concurrent.futures
import json
import os
import re
import subprocess
import sys


def programs(build, pattern):
    with open(os.path.join(build, "meson-info/intro-tests.json"), encoding="utf-8") as f:
        tests = json.load(f)
    return [t for t in tests
            if any(s.endswith(":unit") for s in t["suite"]) and "fuzz/" not in t["name"]
            and re.search(pattern, t["name"])]


def run(test, seed, args):
    env = dict(os.environ, **test["env"], SHAKE_SEED=str(seed), LD_PRELOAD=args.library)
    name = f"{test['name'].replace('/', '-')}.{seed}"
    with open(os.path.join(args.out, name), "w+", encoding="utf-8", errors="replace") as log:
        try:
            status = subprocess.run(test["cmd"], env=env, cwd=test["workdir"] or args.build,
                                    stdout=log, stderr=log, timeout=args.seconds,
                                    check=False).returncode
        except subprocess.TimeoutExpired:
            status = "no end"
        log.seek(0)
        failed = re.findall(r"\[  FAILED  \] (\D\w+)$", log.read(), re.MULTILINE)
    if status == 0:
        os.remove(log.name)
        return True
    print(f"{test['name']}: SHAKE_SEED={seed}: {status}: {' '.join(sorted(set(failed)))}",
          flush=True)
    return False


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pattern", nargs="?", default=".", help="of names, such as api/watch")
    parser.add_argument("--build", default="build/release")
    parser.add_argument("--out", default="build/shake")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1, help="of the first round")
    parser.add_argument("--jobs", type=int, default=6, help="most of them sleep most of the time")
    parser.add_argument("--seconds", type=int, default=600, help="the longest that one may take")
    args = parser.parse_args()
    args.build, args.out = os.path.abspath(args.build), os.path.abspath(args.out)
    args.library = os.path.join(args.build, "tests/shake/shake.so")
    if not os.path.exists(args.library):
        sys.exit(f"there is no {args.library}: build first")
    os.makedirs(args.out, exist_ok=True)
    tests = programs(args.build, args.pattern)
    if not tests:
        sys.exit(f"no unit program is called {args.pattern}")
    work = [(t, seed) for seed in range(args.seed, args.seed + args.rounds) for t in tests]
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        passed = []
        for ok in pool.map(lambda w: run(*w, args), work):
            passed.append(ok)
            if len(passed) % len(tests) == 0:
                print(f"{len(passed)} of {len(work)}", file=sys.stderr, flush=True)
    print(f"{passed.count(True)} passed, {passed.count(False)} failed")
    sys.exit(not all(passed))


if __name__ == "__main__":
    main()

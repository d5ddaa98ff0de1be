#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Checks the rules of the house that no compiler checks.

Each rule is a function of the tree which yields (path, line, message). A rule with no message is a
passed test. Rules that look at objects need a Meson build folder (--build, may be repeated) and are
skipped without one. tidy_selftest.py plants one violation of each rule and sees it caught.
"""
import argparse
import json
import os
import re
import subprocess
import sys

LAYERS = ["base", "raft", "proto", "storage", "auth", "server", "api"]
ROOTS = re.compile(r"server/(bin/.*|main\.c|cairnutl\.c)$")  # The composition roots.
FILE_LINES_MAX = 1000
FUNCTION_LINES_MAX = 70
README_LINES_MAX = 150
COLUMNS_MAX = 100

# Functions that may be longer than FUNCTION_LINES_MAX: a handful of dispatch switches.
LONG_FUNCTIONS_MAX = 5
LONG_FUNCTIONS = set()

CONFINED = [  # (header, who may include it)
    (r"rocksdb/", r"storage/db_rocks\.c$"),
    (r"grpc/", r"api/"),
    (r"openssl/", r"(base/digest\.c|api/(tls|http)[^/]*|auth/(password|jwt)\.c)$"),
    (r"protobuf-c/", r"(storage|auth|server|api)/"),
]

BANNED = {
    "strcpy": "memcpy with a known length", "strcat": "a buffer", "sprintf": "snprintf",
    "vsprintf": "vsnprintf", "gets": "read", "strtok": "a scanner with explicit ends",
    "rand": "base/rng", "srand": "base/rng", "random": "base/rng", "alloca": "the arena",
    "sleep": "a timer", "usleep": "a timer", "assert": "check()",
    # With the log off, or after a read error, older releases lost data by these.
    "rocksdb_create_column_family": "a key prefix", "rocksdb_writebatch_merge": "a read before",
    "rocksdb_writebatch_delete_range": "deletions", "rocksdb_delete_range_cf": "deletions",
}

# What the raft library may take from outside besides base: memory, bytes, and text in memory.
PURE = re.compile(
    r"^_*((m|c|re)alloc|reallocarray|free|mem\w+|str(n?len|n?cmp|chr|rchr|str|n?dup)|v?sn?printf"
    r"|qsort|bsearch|abort|stack_chk_fail|GLOBAL_OFFSET_TABLE_|(asan|ubsan|tsan)_\w+)(_chk)?$")
# What of base it may not take: clocks, logs, threads, metrics, files.
IMPURE_BASE = re.compile(r"^(clock|log|inbox|metrics|failpoint|file|thread)")

CODE = (".c", ".h", ".cc")
SKIPPED_FOLDERS = re.compile(r"(^|/)(\.git|\.cache|__pycache__|build[^/]*)(/|$)")


class Tree:
    """The files of one source tree, read once."""

    def __init__(self, root, builds=()):
        self.root = root
        self.builds = [b for b in builds if os.path.exists(os.path.join(b, "meson-info"))]
        self.paths = sorted(self._list())
        self._text = {}
        self._bare = {}

    def _list(self):
        for folder, folders, names in os.walk(self.root):
            relative = os.path.relpath(folder, self.root)
            relative = "" if relative == "." else relative + "/"
            folders[:] = [d for d in folders if not SKIPPED_FOLDERS.search(relative + d)]
            for name in names:
                if os.path.isfile(os.path.join(folder, name)):
                    yield relative + name

    def text(self, path):
        if path not in self._text:
            with open(os.path.join(self.root, path), encoding="utf-8", errors="replace") as file:
                self._text[path] = file.read()
        return self._text[path]

    def lines(self, path):
        return self.text(path).split("\n")

    def bare(self, path):
        """The text of a C file with comments, strings and preprocessor lines blanked."""
        if path not in self._bare:
            self._bare[path] = bare(self.text(path))
        return self._bare[path]

    def code(self, tests=True):
        return [p for p in self.paths if p.endswith(CODE) and (tests or not is_test(p))]

    def targets(self):
        for build in self.builds:
            yield from targets_of(build)


def targets_of(build):
    with open(os.path.join(build, "meson-info", "intro-targets.json"), encoding="utf-8") as file:
        return json.load(file)


def is_test(path):
    return path.startswith("tests/") or path.endswith(("_test.c", "_test.h"))


TOKEN = re.compile(r"""//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])+'"""
                   r"""|^[ \t]*\#(?:\\\n|/\*.*?\*/|[^\n])*""", re.S | re.M)


def bare(text):
    return TOKEN.sub(lambda m: re.sub(r"[^\n]", " ", m.group(0)), text)


def functions(text):
    """Yields (name, first line, last line) of every function definition in the text of a C file.

    Walks the braces of the bare text: a brace at the outermost level that follows a closing
    parenthesis opens a function, whose name stands before the first parenthesis of what precedes.
    """
    code = bare(text)
    code = re.sub(r'extern\s+\{', lambda m: re.sub(r"[^\n]", " ", m.group(0)), code)
    depth, start, opened = 0, 0, None
    for match in re.finditer(r"[{};]", code):
        char, at = match.group(0), match.start()
        if char == "{":
            if depth == 0:
                opened = definition(code, start, at)
            depth += 1
        elif char == "}" and depth > 0:
            depth -= 1
            if depth == 0:
                if opened:
                    yield opened[0], opened[1], code.count("\n", 0, at) + 1
                    opened = None
                start = at + 1
        elif char == ";" and depth == 0:
            start = at + 1


def definition(code, start, brace):
    head = code[start:brace]
    if "=" in head or not re.search(r"\)\s*(const|noexcept|override)?\s*$", head):
        return None
    for match in re.finditer(r"([A-Za-z_]\w*)\s*\(", head):
        if match.group(1) not in ("__attribute__", "__typeof__", "_Alignas"):
            begin = start + len(head) - len(head.lstrip())
            return match.group(1), code.count("\n", 0, begin) + 1
    return None


def includes(tree, path):
    for number, line in enumerate(tree.lines(path), 1):
        match = re.match(r'\s*#\s*include\s*([<"])([^>"]+)[>"]', line)
        if match:
            yield number, match.group(1), match.group(2)


def layer_of(path):
    if path.endswith(".pb-c.h"):
        return "proto"
    return path.split("/")[0]


# --- The rules. -----------------------------------------------------------------------------------

def include_order(tree):
    """A file includes only what stands to its left, by its path from the source root."""
    for path in tree.code():
        mine = "proto" if path.startswith("api/proto/") else layer_of(path)
        free = is_test(path) or ROOTS.match(path) or mine not in LAYERS
        for number, quote, name in includes(tree, path):
            theirs = layer_of(name)
            if quote == '"' and "/" not in name and theirs != "proto" and mine in LAYERS:
                yield path, number, f'"{name}" is not written from the source root'
            elif not free and theirs in LAYERS and LAYERS.index(theirs) > LAYERS.index(mine):
                yield path, number, f"{mine} may not include {theirs} ({name})"


def confined_headers(tree):
    """A third-party library is seen only where it is wrapped."""
    for path in tree.code(tests=False):
        for number, _, name in includes(tree, path):
            for header, allowed in CONFINED:
                if re.match(header, name) and not re.match(allowed, path):
                    yield path, number, f"<{name}> may be included only by {allowed}"


def file_sizes(tree):
    """No source file is longer than FILE_LINES_MAX."""
    for path in tree.paths:
        if path.endswith(CODE + (".py", ".go", ".proto", ".build")) or path.startswith("scripts/"):
            count = tree.text(path).count("\n")
            if count > FILE_LINES_MAX:
                yield path, count, f"{count} lines; the limit is {FILE_LINES_MAX}"


def function_sizes(tree):
    """No function is longer than FUNCTION_LINES_MAX, but for a few listed by name."""
    if len(LONG_FUNCTIONS) > LONG_FUNCTIONS_MAX:
        yield "tests/tidy/tidy.py", 1, f"more than {LONG_FUNCTIONS_MAX} exceptions"
    met = set()
    for path in tree.code():
        for name, first, last in functions(tree.text(path)):
            length = last - first + 1
            if length > FUNCTION_LINES_MAX and f"{path}:{name}" in LONG_FUNCTIONS:
                met.add(f"{path}:{name}")
            elif length > FUNCTION_LINES_MAX:
                yield path, first, f"{name} has {length} lines; the limit is {FUNCTION_LINES_MAX}"
    for entry in sorted(LONG_FUNCTIONS - met):
        yield "tests/tidy/tidy.py", 1, f"{entry} is listed as a long function and is none"


def line_lengths(tree):
    """No line is wider than COLUMNS_MAX."""
    for path in tree.paths:
        if path.endswith(CODE + (".py",)) or path.startswith("scripts/"):
            for number, line in enumerate(tree.lines(path), 1):
                if len(line) > COLUMNS_MAX:
                    yield path, number, f"{len(line)} columns; the limit is {COLUMNS_MAX}"


def head_essays(tree):
    """A source file names its licence first; a .c file then says what it is for."""
    for path in tree.paths:
        if path.startswith("api/proto/"):
            continue
        lines = tree.lines(path)[:3]
        scripted = path.startswith("scripts/") and "." not in os.path.basename(path)
        if path.endswith(CODE + (".py", ".go", ".sh")) or scripted:
            at = 1 if lines[0].startswith("#!") and len(lines) > 1 else 0
            if "SPDX-License-Identifier: Apache-2.0" not in lines[at]:
                yield path, 1, "no SPDX line at the head"
                continue
        if path.endswith((".c", ".cc")) and not essay_words(tree.text(path)):
            yield path, 2, "no comment that says what the file owns, on which thread, in which form"


def essay_words(text):
    """True if a comment of a sentence or more follows the SPDX line, before any code."""
    match = re.match(r"/\*[^\n]*\*/\s*(/\*.*?\*/)", text, re.S)
    return bool(match) and len(re.findall(r"\w+", match.group(1))) >= 8


def banned_calls(tree):
    """Calls that are unsafe, unseeded, or wait; assert() vanishes from release builds."""
    pattern = re.compile(r"(?<![\w.>])(" + "|".join(BANNED) + r")\s*\(")
    for path in tree.code(tests=False):
        for number, line in enumerate(tree.bare(path).split("\n"), 1):
            for match in pattern.finditer(line):
                name = match.group(1)
                yield path, number, f"{name}() is banned: use {BANNED[name]}"


def unfinished_marks(tree):
    """What is left to do stands in an issue, and a mark in the code names it."""
    pattern = re.compile(r"\b(FIX" r"ME|XX" r"X|TO" r"DO)\b(?!\(#\d+\))")
    for path in tree.paths:
        if path.endswith(CODE + (".py", ".go", ".sh", ".build", ".proto")):
            for number, line in enumerate(tree.lines(path), 1):
                match = pattern.search(line)
                if match:
                    yield path, number, f"{match.group(1)} without (#issue)"


def pretended_parts(tree):
    """Nothing in the sources stands in for something that is to come."""
    pattern = re.compile(r"\b(stubs?|placeholders?)\b", re.I)
    for path in tree.code():
        for number, line in enumerate(tree.lines(path), 1):
            match = pattern.search(line)
            if match:
                yield path, number, f"the word '{match.group(1)}'"


def named_for_an_option(tree, path):
    """A build without an option such as failpoints has no target for the option's files, but
    their folder's meson.build names them."""
    meson = os.path.join(tree.root, os.path.dirname(path), "meson.build")
    if not os.path.exists(meson):
        return False
    with open(meson, encoding="utf-8") as f:
        text = f.read()
    name = os.path.basename(path)
    test_of = name.removesuffix("_test.c")
    names = [name] if test_of == name else [name, test_of]
    return "get_option(" in text and any(f"'{n}'" in text for n in names)


def dead_files(tree):
    """Every C file belongs to a target, and every header is included by somebody."""
    built = set()
    for target in tree.targets():
        for group in target.get("target_sources", []):
            built.update(os.path.realpath(s) for s in group.get("sources", []))
    included = {name for path in tree.code() for _, _, name in includes(tree, path)}
    for path in tree.code():
        absolute = os.path.realpath(os.path.join(tree.root, path))
        if path.endswith((".c", ".cc")) and absolute not in built:
            if named_for_an_option(tree, path):
                continue
            yield path, 1, "no target of any meson.build has this file"
        elif path.endswith(".h") and not {path, os.path.basename(path)} & included:
            yield path, 1, "nobody includes this header"


def raft_purity(tree):
    """The raft library takes nothing from outside but memory, bytes and the pure half of base."""
    for build in tree.builds:
        base = library(build, "base")
        raft = library(build, "raft")
        if not raft:
            yield "raft/meson.build", 1, "no library named raft"
            continue
        pure, impure = base_symbols(base)
        own = {s for _, s in nm(raft, "--defined-only")}
        for member, symbol in sorted(set(nm(raft, "--undefined-only"))):
            if symbol in own or (symbol in pure and symbol not in impure) or PURE.match(symbol):
                continue
            yield "raft/" + member, 1, f"uses {symbol}, which is not pure"


def library(build, name):
    for target in targets_of(build):
        if target["name"] == name and target["type"] == "static library":
            return target["filename"][0]
    return None


def base_symbols(base):
    pure, impure = set(), set()
    for member, symbol in nm(base, "--defined-only") if base else []:
        (impure if IMPURE_BASE.match(member) else pure).add(symbol)
    return pure, impure


def nm(path, which):
    """Yields (source file, symbol) for each external symbol of the objects in a library."""
    output = subprocess.run(["nm", "-A", "-g", "-P", which, path], check=True, text=True,
                            stdout=subprocess.PIPE).stdout
    for line in output.split("\n"):
        match = re.match(r".*?([^/\[\]:]+?)(?:\.o)?\]?: (\S+) ", line)
        if match:
            yield match.group(1), match.group(2).split("@")[0]


MACHINE = re.compile(
    r"(?<![\w.$}])/(work|root)/|/tm[p]/b-|/ho[m]e/\w+/"
    r"|\b(proxy|sum)\.golan[g]\.org|\b(files\.pythonhosted|pyp[i])\.org|\bdeb\.debia[n]\.org"
    r"|\bregistry\.npmj[s]\.org|\bcrate[s]\.io|\bghc[r]\.io|\bdocke[r]\.io")


def machine_names(tree):
    """The tree names no folder of one machine and no host of a package registry."""
    for path in tree.paths:
        if path == "tests/tidy/tidy.py" or path.endswith((".sum", ".bin", ".db")):
            continue
        for number, line in enumerate(tree.lines(path), 1):
            match = MACHINE.search(line)
            if match:
                yield path, number, f"'{match.group(0)}' belongs to one machine or registry"


def readmes(tree):
    """Each folder explains itself in a README.md, in README_LINES_MAX lines."""
    folders = {p.split("/")[0] for p in tree.code() if "/" in p}
    for folder in sorted((folders & set(LAYERS)) | {"."}):
        path = "README.md" if folder == "." else folder + "/README.md"
        if path not in tree.paths:
            yield path, 1, "there is none"
    for path in tree.paths:
        count = tree.text(path).count("\n") if os.path.basename(path) == "README.md" else 0
        if count > README_LINES_MAX:
            yield path, count, f"{count} lines; the limit is {README_LINES_MAX}"


def named_tests(tree):
    """What docs/traps.md names in backquotes exists: a file, or a word of the code."""
    path = "docs/traps.md"
    if path not in tree.paths:
        return
    words = {os.path.splitext(os.path.basename(p))[0] for p in tree.paths}
    for code in tree.paths:
        if code.endswith(CODE + (".go", ".py")):
            words.update(re.findall(r"[A-Za-z_]\w+", tree.text(code)))
    for number, line in enumerate(tree.lines(path), 1):
        for name in re.findall(r"`([^`]+)`", line):
            if "/" in name:
                known = name in tree.paths or any(p.startswith(name + "/") for p in tree.paths)
            else:
                known = all(w in words for w in re.findall(r"[A-Za-z_]\w+", name.split(".")[0]))
            if not known:
                yield path, number, f"there is no {name}"


def planted_bugs(tree):
    """The bugs that are planted for the simulator still fit the code."""
    for path in tree.paths:
        if path.startswith("tests/sim/bugs/") and path.endswith(".patch"):
            done = subprocess.run(["patch", "-p1", "--batch", "--dry-run", "-i", path],
                                  cwd=tree.root, capture_output=True, check=False)
            if done.returncode:
                yield path, 1, "does not apply"


RULES = [include_order, confined_headers, file_sizes, function_sizes, line_lengths, head_essays,
         banned_calls, unfinished_marks, pretended_parts, machine_names, readmes, named_tests,
         planted_bugs, dead_files, raft_purity]
NEED_BUILD = {dead_files, raft_purity}


# --- The report. ----------------------------------------------------------------------------------

def share(values, limit):
    return 100 * sum(v <= limit for v in values) // len(values) if values else 100


def percentile(values, percent):
    return sorted(values)[min(len(values) - 1, len(values) * percent // 100)] if values else 0


def report_sizes(tree):
    code = tree.code(tests=False)
    files = [tree.text(p).count("\n") for p in code]
    lengths = [last - first + 1 for p in code for _, first, last in functions(tree.text(p))]
    print(f"files: {len(files)}, median {percentile(files, 50)}, p95 {percentile(files, 95)}, "
          f"longest {max(files, default=0)} lines")
    print(f"functions: {len(lengths)}, median {percentile(lengths, 50)}, "
          f"p95 {percentile(lengths, 95)}, longest {max(lengths, default=0)} lines; "
          f"{share(lengths, 20)} % within 20 (aim: 60), {share(lengths, 40)} % within 40 (aim: 80)")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    here = os.path.dirname(os.path.abspath(__file__))
    parser.add_argument("--root", default=os.path.join(here, "..", ".."))
    parser.add_argument("--build", action="append", default=[], help="a Meson build folder")
    parser.add_argument("rules", nargs="*", help="these rules only")
    arguments = parser.parse_args()
    tree = Tree(os.path.abspath(arguments.root), arguments.build)
    passed = failed = skipped = 0
    for rule in RULES:
        if arguments.rules and rule.__name__ not in arguments.rules:
            continue
        if rule in NEED_BUILD and not tree.builds:
            print(f"{rule.__name__}: skipped, no build folder")
            skipped += 1
            continue
        found = list(rule(tree))
        for path, line, message in found:
            print(f"{path}:{line}: {rule.__name__}: {message}")
        passed += not found
        failed += bool(found)
    report_sizes(tree)
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

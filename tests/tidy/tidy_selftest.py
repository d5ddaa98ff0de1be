#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Plants violations of every rule of tidy.py in small trees of their own, and sees them caught.

A case is (rule, what the message must contain, the files). "" means that the rule must be content:
each rule has such a case too, because a rule that always complains is as blind as one that never
does.
"""
import json
import os
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import tidy  # pylint: disable=wrong-import-position

SPDX = "/* SPDX-License-Identifier: Apache-2.0 */\n"
ESSAY = SPDX + "/* A file for the test of the rules, on no thread, of no format at all. */\n"
MACHINE_PATH = "/wor" "k/main"
MARK = "TO" "DO"


def c(body):
    return ESSAY + body


def long_function(lines):
    return "static int f(int a)\n{\n" + "    a++;\n" * (lines - 4) + "    return a;\n}\n"


CASES = [
    ("include_order", "base may not include raft", {"base/x.c": c('#include "raft/raft.h"\n')}),
    ("include_order", "storage may not include auth", {
        "storage/x.h": SPDX + '#include "auth/a.h"\n'}),
    ("include_order", "raft may not include proto", {"raft/x.c": c('#include "raft.pb-c.h"\n')}),
    ("include_order", "server may not include api", {"server/x.c": c('# include "api/call.h"\n')}),
    ("include_order", "from the source root", {"base/x.c": c('#include "x.h"\n')}),
    ("include_order", "", {
        "server/x.c": c('#include "base/a.h"\n#include "rpc.pb-c.h"\n#include <stdio.h>\n'),
        "server/main.c": c('#include "api/api.h"\n'),
        "base/x_test.c": c('#include "storage/db.h"\n'),
        "tests/raft/run.c": c('#include "api/api.h"\n')}),
    ("confined_headers", "<rocksdb/c.h>", {"storage/mvcc.c": c("#include <rocksdb/c.h>\n")}),
    ("confined_headers", "<grpc/grpc.h>", {"server/x.c": c("#include <grpc/grpc.h>\n")}),
    ("confined_headers", "<openssl/evp.h>", {"api/kv.c": c("#include <openssl/evp.h>\n")}),
    ("confined_headers", "<protobuf-c/", {"raft/x.c": c("#include <protobuf-c/protobuf-c.h>\n")}),
    ("confined_headers", "", {
        "storage/db_rocks.c": c("#include <rocksdb/c.h>\n"),
        "api/tls_verify.c": c("#include <openssl/ssl.h>\n#include <grpc/grpc.h>\n"),
        "auth/jwt.c": c("#include <openssl/evp.h>\n")}),
    ("file_sizes", "1003 lines", {"base/x.c": c("\n" * 1001)}),
    ("file_sizes", "", {"base/x.c": c("\n" * 998)}),
    ("function_sizes", "f has 71 lines", {"base/x.c": c(long_function(71))}),
    ("function_sizes", "f has 80 lines", {
        "base/x.c": c('#define M {\nstatic const char *s = "{"; /* } */ int a[] = {1, 2};\n'
                      "struct t { int x; };\nint g(void)\n{\n    return '}';\n}\n"
                      + long_function(80))}),
    ("function_sizes", "f has 90 lines", {
        "api/x.cc": c('extern "C" {\nint h(void)\n{\n    return 1;\n}\n' + long_function(90)
                      + "}\n")}),
    ("function_sizes", "", {
        "base/x.c": c(long_function(70) + "struct s {\n" + "    int x;\n" * 90 + "};\n")}),
    ("line_lengths", "101 columns", {"base/x.c": c("/* " + "x" * 95 + " */\n")}),
    ("line_lengths", "", {"base/x.c": c("/* " + "ä" * 94 + " */\n")}),
    ("head_essays", "no SPDX", {"base/x.h": "#pragma once\n"}),
    ("head_essays", "no SPDX", {"scripts/thing": "#!/bin/sh\n# nothing\n"}),
    ("head_essays", "no comment", {
        "base/x.c": SPDX + "#include <stdio.h>\n/* Too late to say it here, is it not so? */\n"}),
    ("head_essays", "no comment", {"base/x.c": SPDX + "/* Words. */\n"}),
    ("head_essays", "", {
        "base/x.c": c(""), "scripts/x": "#!/bin/sh\n# SPDX-License-Identifier: Apache-2.0\n"}),
    ("unfinished_marks", "without (#issue)", {"base/x.c": c(f"/* {MARK}: later */\n")}),
    ("unfinished_marks", "", {
        "base/x.c": c(f'/* {MARK}(#12): later */ char t[] = "/a.XXXXXX";\n')}),
    ("pretended_parts", "placeholder", {"base/x.c": c("/* A placeholder for now. */\n")}),
    ("pretended_parts", "'Stub'", {"server/x.h": SPDX + "/* Stub. */\n"}),
    ("pretended_parts", "", {
        "base/x.c": c("/* A stubborn one. */\n"), "tests/a/b.go": "// raw stubs\n"}),
    ("machine_names", MACHINE_PATH[:6], {"docs/x.md": f"cd {MACHINE_PATH}\n"}),
    ("machine_names", "pypi", {"scripts/x": "pip --index https://py" "pi.org/simple\n"}),
    ("machine_names", "golang", {"tests/x.go": "// GOPROXY=https://proxy.gol" "ang.org\n"}),
    ("machine_names", "", {
        "README.md": "./wor" "k/x $HOME/roo" "t/y https://go.dev frame" "wor" "k/\n"}),
    ("readmes", "there is none", {"base/x.c": c(""), "README.md": "x\n"}),
    ("readmes", "151 lines", {"README.md": "x\n", "base/README.md": "x\n" * 151}),
    ("readmes", "", {"base/x.c": c(""), "base/README.md": "x\n" * 150, "README.md": "x\n"}),
    ("named_tests", "no test_gone", {"docs/traps.md": "| `test_gone` |\n", "base/x.c": c("")}),
    ("named_tests", "no raft/y.txt", {"docs/traps.md": "`raft/y.txt`\n", "raft/x.txt": "\n"}),
    ("planted_bugs", "does not apply", {
        "base/x.c": c("int x;\n"),
        "tests/sim/bugs/b.patch": "Y.\n--- a/base/x.c\n+++ b/base/x.c\n@@ -1 +1 @@\n-int y;\n+\n"}),
    ("planted_bugs", "", {
        "base/x.c": "int y;\n",
        "tests/sim/bugs/b.patch": "Y.\n--- a/base/x.c\n+++ b/base/x.c\n@@ -1 +1 @@\n-int y;\n+\n"}),
    ("named_tests", "", {
        "docs/traps.md": "`test_x` (`base/x.c`), patch `p`, `bugs`\n", "bugs/p.patch": "\n",
        "base/x.c": c("void test_x(void);\nint bugs;\n")}),
] + [
    ("banned_calls", name + "() is banned", {
        "base/x.c": c(f"int f(void)\n{{\n    {name} (1);\n}}\n")}) for name in tidy.BANNED
] + [
    ("banned_calls", "", {
        "base/x.c": c('/* strcpy(a) */ char *s = "sleep(1)"; int g(void) { return x->rand(); }\n'
                      "_Static_assert(1, \"\"); int snprintf(char *); int my_sleep(int);\n"),
        "base/x_test.c": c("int g(void) { sleep(1); assert(1); }\n")}),
]


def write(root, files):
    for path, text in files.items():
        full = os.path.join(root, path)
        os.makedirs(os.path.dirname(full), exist_ok=True)
        with open(full, "w", encoding="utf-8") as file:
            file.write(text)


def build_folder(root, targets):
    folder = os.path.join(root, "build")
    os.makedirs(os.path.join(folder, "meson-info"))
    with open(os.path.join(folder, "meson-info", "intro-targets.json"), "w", encoding="utf-8") as f:
        json.dump(targets, f)
    return folder


def messages(rule, files, prepare=None):
    with tempfile.TemporaryDirectory() as root:
        write(root, files)
        builds = [prepare(root)] if prepare else []
        tree = tidy.Tree(root, builds)
        return [f"{path}:{line}: {text}" for path, line, text in getattr(tidy, rule)(tree)]


def dead_file_cases():
    files = {"base/x.c": c('#include "base/x.h"\n'), "base/x.h": SPDX}

    def prepare(root):
        source = os.path.join(root, "base/x.c")
        return build_folder(root, [{"target_sources": [{"sources": [source]}]}])

    yield "", messages("dead_files", files, prepare)
    yield "base/y.c:1: no target", messages("dead_files", files | {"base/y.c": c("")}, prepare)
    yield "base/y.h:1: nobody", messages("dead_files", files | {"base/y.h": SPDX}, prepare)


def archive(root, name, files):
    """Compiles each (file, text) and puts the objects into a library, as Meson would."""
    objects = []
    for file, text in files.items():
        path = os.path.join(root, file)
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)
        objects.append(path + ".o")
        subprocess.run(["cc", "-w", "-O0", "-c", path, "-o", path + ".o"], check=True)
    library = os.path.join(root, f"lib{name}.a")
    subprocess.run(["ar", "rcsT", library] + objects, check=True)
    return {"name": name, "type": "static library", "filename": [library]}


def purity_messages(raft_text):
    def prepare(root):
        base = {"map.c": "int map_get(void) { return 1; }",
                "log.c": "int log_write(void) { return 1; }",
                "clock_real.c": "int clock_now(void) { return 1; }"}
        raft = {"raft.c": raft_text, "quorum.c": "int quorum(void) { return 2; }"}
        return build_folder(root, [archive(root, "base", base), archive(root, "raft", raft)])

    return messages("raft_purity", {}, prepare)


def purity_cases():
    pure = "#include <stdlib.h>\n#include <string.h>\n#include <stdio.h>\n"
    pure += "int raft(char *p) { free(malloc(9)); memcpy(p, p + 9, 3); snprintf(p, 9, \"%d\", 3);"
    pure += " return map_get() + quorum() + (int)strlen(p); }\n"
    yield "", purity_messages(pure)
    for name in ["time", "open", "write", "socket", "rand", "pthread_mutex_lock", "fopen", "fputs",
                 "getrandom", "epoll_wait", "log_write", "clock_now", "raftpb__message__unpack"]:
        yield f"uses {name},", purity_messages(f"int raft(void) {{ return {name}(1, 2); }}\n")


def verdicts():
    for rule, want, files in CASES:
        yield rule, want, messages(rule, files)
    for want, found in dead_file_cases():
        yield "dead_files", want, found
    for want, found in purity_cases():
        yield "raft_purity", want, found


def main():
    passed = failed = 0
    tried = {}
    for rule, want, found in verdicts():
        tried.setdefault(rule, set()).add(bool(want))
        good = any(want in line for line in found) if want else not found
        passed += good
        failed += not good
        if not good:
            print(f"{rule}: want {want or 'no message'!r}, have {found}")
    for rule in tidy.RULES:
        if tried.get(rule.__name__) != {True, False}:
            print(f"{rule.__name__}: no case that it must catch, or none that it must let pass")
            failed += 1
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs raft scripts. A script is a text file of blocks separated by blank lines:
 *
 *     prose, ignored
 *
 *     command            one or more, run in order
 *     command
 *     ----
 *     what they must print; "ok" stands for nothing at all
 *
 *   raft_script FILE...             compares; prints each difference; exit status 1 if there was
 *   any
 *   raft_script --rewrite FILE...   puts what was printed into the file. Commit the result only if
 *   you understand it.
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/mem.h"
#include "tests/raft/command.h"

static bool read_file(const char *path, struct buf *ret)
{
    FILE *f = fopen(path, "r");
    char chunk[4096];
    size_t n;
    if (!f)
        return false;
    while ((n = fread(chunk, 1, sizeof(chunk), f)) > 0)
        buf_append(ret, chunk, n);
    return fclose(f) == 0;
}

static bool write_file(const char *path, const struct buf *text)
{
    FILE *f = fopen(path, "w");
    if (!f)
        return false;
    bool ok = fwrite(text->data, 1, text->len, f) == text->len;
    return fclose(f) == 0 && ok;
}

/* Takes one line off *text, without its newline. False at the end. */
static bool next_line(char **text, char **ret)
{
    if (!**text)
        return false;
    *ret = *text;
    char *end = strchr(*text, '\n');
    if (end) {
        *end = 0;
        *text = end + 1;
    } else {
        *text += strlen(*text);
    }
    return true;
}

/* A block being read: commands so far, and the expected lines behind ----. */
struct block {
    struct buf commands;
    struct buf expected;
    bool is_test;
};

static bool finish_block(struct cluster *c, struct block *b, const char *path,
                         struct buf *rewritten, bool rewrite)
{
    bool same = true;
    buf_append(rewritten, b->commands.data, b->commands.len);
    if (b->is_test) {
        struct buf out = BUF_NULL;
        char *text = mem_strdup(buf_cstr(&b->commands));
        char *rest = text;
        char *line;
        while (next_line(&rest, &line))
            command_run(c, line, &out);
        free(text);
        if (out.len == 0)
            buf_append_str(&out, "ok\n");
        same = bytes_equal(buf_bytes(&out), buf_bytes(&b->expected));
        if (!same && !rewrite)
            printf("%s:\n%s---- expected\n%s---- got\n%s\n", path, buf_cstr(&b->commands),
                   buf_cstr(&b->expected), buf_cstr(&out));
        buf_append_str(rewritten, "----\n");
        buf_append_bytes(rewritten, buf_bytes(&out));
        buf_deinit(&out);
    }
    buf_clear(&b->commands);
    buf_clear(&b->expected);
    b->is_test = false;
    return same;
}

static bool run_text(char *text, const char *path, struct buf *rewritten, bool rewrite)
{
    struct cluster c;
    struct block b = {BUF_NULL, BUF_NULL, false};
    char *line;
    bool same = true;
    cluster_init(&c);
    while (next_line(&text, &line)) {
        if (!*line) {
            same &= finish_block(&c, &b, path, rewritten, rewrite);
            buf_append_str(rewritten, "\n");
        } else if (strcmp(line, "----") == 0) {
            b.is_test = true;
        } else {
            buf_printf(b.is_test ? &b.expected : &b.commands, "%s\n", line);
        }
    }
    same &= finish_block(&c, &b, path, rewritten, rewrite);
    buf_deinit(&b.commands);
    buf_deinit(&b.expected);
    cluster_deinit(&c);
    return same;
}

static bool run_file(const char *path, bool rewrite)
{
    struct buf text = BUF_NULL;
    struct buf rewritten = BUF_NULL;
    if (!read_file(path, &text)) {
        fprintf(stderr, "can't read %s\n", path);
        return false;
    }
    bool same = run_text((char *)(uintptr_t)buf_cstr(&text), path, &rewritten, rewrite);
    if (rewrite)
        same = write_file(path, &rewritten);
    buf_deinit(&text);
    buf_deinit(&rewritten);
    return same;
}

int main(int argc, char **argv)
{
    bool rewrite = argc > 1 && strcmp(argv[1], "--rewrite") == 0;
    bool ok = true;
    if (argc < 2 + rewrite) {
        fprintf(stderr, "usage: %s [--rewrite] FILE...\n", argv[0]);
        return 2;
    }
    for (int i = 1 + rewrite; i < argc; i++)
        ok &= run_file(argv[i], rewrite);
    return ok ? 0 : 1;
}

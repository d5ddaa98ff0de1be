/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The reader and the writer of bbolt files behind a pipe, for the comparison with bbolt itself:
 *
 *   bbolt_tool dump FILE         prints "bucket NAME" and "item KEY VALUE" lines, all in hex
 *   bbolt_tool load FILE PAGE    reads such lines, writes FILE with pages of PAGE bytes
 *
 * Exit status 1 and a line on stderr: the file is damaged, or the lines are out of order.
 *
 * Thread: main.
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/mem.h"
#include "storage/bbolt_read.h"
#include "storage/bbolt_write.h"

static void print_hex(struct bytes s)
{
    putchar(' ');
    for (size_t i = 0; i < s.len; i++)
        printf("%02x", s.data[i]);
}

static int dump_items(struct bbolt *b, struct bytes name)
{
    _cleanup_(bbolt_cursor_closep) struct bbolt_cursor *c = NULL;
    bool found = false;
    int r = bbolt_cursor_open(&c, b, name);
    if (r == 0)
        r = bbolt_first(c, &found);
    while (r == 0 && found) {
        fputs("item", stdout);
        print_hex(bbolt_key(c));
        print_hex(bbolt_value(c));
        putchar('\n');
        r = bbolt_next(c, &found);
    }
    return r;
}

static int dump(const char *path)
{
    _cleanup_(bbolt_closep) struct bbolt *b = NULL;
    _cleanup_(bbolt_cursor_closep) struct bbolt_cursor *c = NULL;
    _cleanup_(mem_freep) char *error = NULL;
    bool found = false;
    int r = bbolt_open(&b, path, &error);
    if (r == 0)
        r = bbolt_cursor_open(&c, b, BYTES_NULL);
    if (r == 0)
        r = bbolt_first(c, &found);
    while (r == 0 && found) {
        fputs("bucket", stdout);
        print_hex(bbolt_key(c));
        putchar('\n');
        r = dump_items(b, bbolt_key(c));
        if (r == 0)
            r = bbolt_next(c, &found);
    }
    if (r != 0)
        fprintf(stderr, "%d: %s\n", r, b ? bbolt_error(b) : error);
    return r == 0 ? 0 : 1;
}

static int digit(char c)
{
    const char *digits = "0123456789abcdef", *at = c ? strchr(digits, c) : NULL;
    return at ? (int)(at - digits) : -1;
}

/* The hex word at *text; *text moves behind it and the blank that follows. */
static void take_hex(char **text, struct buf *out)
{
    char *p = *text;
    buf_clear(out);
    for (; digit(p[0]) >= 0 && digit(p[1]) >= 0; p += 2)
        buf_append_u8(out, (uint8_t)(digit(p[0]) << 4 | digit(p[1])));
    *text = p + (*p == ' ');
}

static int load_line(struct bbolt_writer *w, char *line)
{
    _cleanup_(buf_deinit) struct buf key = BUF_NULL, value = BUF_NULL;
    bool item = *line == 'i';
    line += strcspn(line, " ") + 1;
    take_hex(&line, &key);
    if (!item)
        return bbolt_write_bucket(w, buf_cstr(&key));
    take_hex(&line, &value);
    return bbolt_write_item(w, buf_bytes(&key), buf_bytes(&value));
}

static int load(const char *path, const char *page_bytes)
{
    _cleanup_(bbolt_write_closep) struct bbolt_writer *w = NULL;
    struct bbolt_write_options options = {path, (uint32_t)strtoul(page_bytes, NULL, 10)};
    char *line = NULL;
    size_t cap = 0;
    uint64_t bytes;
    int r = bbolt_write_open(&w, &options);
    while (r == 0 && getline(&line, &cap, stdin) > 0)
        r = load_line(w, line);
    free(line);
    if (r == 0)
        r = bbolt_write_finish(w, &bytes);
    if (r != 0)
        fprintf(stderr, "%d\n", r);
    return r == 0 ? 0 : 1;
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "dump") == 0)
        return dump(argv[2]);
    if (argc == 4 && strcmp(argv[1], "load") == 0)
        return load(argv[2], argv[3]);
    return 2;
}

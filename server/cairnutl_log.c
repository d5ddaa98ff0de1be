/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The raft log as JSON lines:
 *
 *   {"commit":12}
 *   {"index":1,"term":1,"type":"EntryConfChange","data":"base64"}
 *   ...
 *
 * The log is read twice: first to learn the commit index and which record of each index is the
 * last one (entries may have been overwritten), then to print those. Records that a running
 * member adds between the two are not printed, nor are those that it releases; if it releases a
 * segment that is being read, the first reading is repeated.
 *
 * Thread: main.
 *
 * Invariants
 *  (I1) Memory is bounded by eight bytes per entry; the entries themselves pass through.
 *  (I2) Nothing is written to the directory, and no lock is taken.
 */
#include "server/cairnutl_log.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "storage/wal.h"

enum { TRIES_MAX = 10 };

struct survey {
    uint64_t records; /* seen */
    uint64_t commit;
    uint64_t snapshot;
    uint64_t first; /* index of lsns[0] */
    uint64_t *lsns; /* where the record of that index is */
    size_t n;
    size_t cap;
};

struct dump {
    const struct survey *survey;
    FILE *out;
};

static void survey_entry(struct survey *s, uint64_t index, uint64_t lsn)
{
    if (s->n && index < s->first)
        s->n = 0;
    if (!s->n || index > s->first + s->n) {
        s->first = index;
        s->n = 0;
    }
    s->n = (size_t)(index - s->first);
    if (s->n == s->cap) {
        s->cap = s->cap ? 2 * s->cap : 1024;
        s->lsns = mem_realloc(s->lsns, s->cap * sizeof(*s->lsns));
    }
    s->lsns[s->n++] = lsn;
}

static int survey_record(void *arg, const struct wal_record *record)
{
    struct survey *s = arg;

    switch (record->type) {
    case WAL_RECORD_ENTRY: survey_entry(s, record->entry.index, record->lsn); break;
    case WAL_RECORD_HARD_STATE: s->commit = record->hard_state.commit; break;
    case WAL_RECORD_SNAPSHOT:
        s->snapshot = record->snapshot_index;
        if (record->snapshot_index > s->commit)
            s->n = 0; /* it replaces the log */
        break;
    }
    s->records++;
    return 0;
}

static void print_base64(FILE *out, struct bytes s)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

    for (size_t i = 0; i < s.len; i += 3) {
        uint32_t v = (uint32_t)s.data[i] << 16;
        if (i + 1 < s.len)
            v |= (uint32_t)s.data[i + 1] << 8;
        if (i + 2 < s.len)
            v |= s.data[i + 2];
        putc(digits[v >> 18], out);
        putc(digits[v >> 12 & 63], out);
        putc(i + 1 < s.len ? digits[v >> 6 & 63] : '=', out);
        putc(i + 2 < s.len ? digits[v & 63] : '=', out);
    }
}

static int dump_record(void *arg, const struct wal_record *record)
{
    static const char *const types[] = {"EntryNormal", "EntryConfChange", "EntryConfChangeV2"};
    struct dump *d = arg;
    const struct survey *s = d->survey;
    const struct raft_entry *e = &record->entry;

    if (record->type != WAL_RECORD_ENTRY || e->index < s->first || e->index >= s->first + s->n ||
        s->lsns[e->index - s->first] != record->lsn)
        return 0;
    fprintf(d->out, "{\"index\":%" PRIu64 ",\"term\":%" PRIu64 ",\"type\":\"%s\",\"data\":\"",
            e->index, e->term, types[e->type]);
    print_base64(d->out, blob_bytes(e->data));
    fputs("\"}\n", d->out);
    return ferror(d->out) ? -EIO : 0;
}

static int report(int r, const char *dir, char *text, FILE *err)
{
    if (r > 0 && text)
        fprintf(err, "%s\n", text);
    else if (r == WAL_E_MISSING)
        fprintf(err, "%s: there is no raft log\n", dir);
    else if (r == -ESTALE)
        fprintf(err, "%s: the member released what was being read: try again\n", dir);
    else
        fprintf(err, "%s: %s\n", dir, strerror(-r));
    free(text);
    return 1;
}

/* Negative or WAL_E_*, with its text. */
static int take_survey(const char *dir, struct survey *s, char **ret_text)
{
    int r = -ESTALE;

    for (int i = 0; i < TRIES_MAX && r == -ESTALE; i++) {
        s->records = s->commit = s->snapshot = s->first = 0;
        s->n = 0;
        r = wal_read(dir, survey_record, s, ret_text);
    }
    return r;
}

static int log_dump(const char *dir, FILE *out, FILE *err)
{
    struct survey s = {0};
    struct dump d = {.survey = &s, .out = out};
    char *text = NULL;
    int r = take_survey(dir, &s, &text);

    if (r == 0) {
        fprintf(out, "{\"commit\":%" PRIu64 "}\n", s.commit);
        r = wal_read(dir, dump_record, &d, &text);
    }
    free(s.lsns);
    if (r == 0 && fflush(out) != 0)
        r = -errno;
    return r ? report(r, dir, text, err) : 0;
}

static int log_verify(const char *dir, FILE *out, FILE *err)
{
    struct survey s = {0};
    char *text = NULL;
    int r = take_survey(dir, &s, &text);

    free(s.lsns);
    if (r)
        return report(r, dir, text, err);
    fprintf(out,
            "{\"records\":%" PRIu64 ",\"first-index\":%" PRIu64 ",\"last-index\":%" PRIu64
            ",\"commit\":%" PRIu64 ",\"snapshot-index\":%" PRIu64 "}\n",
            s.records, s.n ? s.first : 0, s.n ? s.first + s.n - 1 : 0, s.commit, s.snapshot);
    return 0;
}

static int usage(FILE *err)
{
    fputs("usage: cairnutl log dump|verify --data-dir DIR [--wal-dir DIR]\n", err);
    return 2;
}

/* "--name value", "--name=value", and the same with one dash. */
static bool flag_value(int argc, char **argv, int *i, const char *name, const char **ret)
{
    const char *s = argv[*i];
    size_t len = strlen(name);

    if (*s++ != '-')
        return false;
    if (*s == '-')
        s++;
    if (strncmp(s, name, len) != 0)
        return false;
    if (s[len] == '=') {
        *ret = s + len + 1;
        return true;
    }
    if (s[len] || *i + 1 >= argc)
        return false;
    *ret = argv[++*i];
    return true;
}

int cairnutl_log(int argc, char **argv, FILE *out, FILE *err)
{
    const char *data_dir = NULL, *wal_dir = NULL;

    for (int i = 1; i < argc; i++)
        if (!flag_value(argc, argv, &i, "data-dir", &data_dir) &&
            !flag_value(argc, argv, &i, "wal-dir", &wal_dir))
            return usage(err);
    if (argc < 1 || (!data_dir && !wal_dir))
        return usage(err);
    _cleanup_(mem_freep) char *dir =
        wal_dir ? mem_strdup(wal_dir) : mem_printf("%s/member/wal", data_dir);
    if (strcmp(argv[0], "dump") == 0)
        return log_dump(dir, out, err);
    if (strcmp(argv[0], "verify") == 0)
        return log_verify(dir, out, err);
    return usage(err);
}

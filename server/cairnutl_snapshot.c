/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Snapshot files at the command line (see cairnutl_snapshot.h). As etcdctl leaves them, such a file
 * is a bbolt file with the SHA-256 of its bytes behind it.
 *
 * Both ways the result is made beside its place, as NAME.part, synced and then renamed: there is
 * either all of it or nothing.
 *
 * Thread: main.
 */
#include "server/cairnutl_snapshot.h"

#include <errno.h>
#include <ftw.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "base/digest.h"
#include "base/err.h"
#include "base/mem.h"
#include "server/member.h"
#include "storage/file.h"
#include "storage/mvcc.h"
#include "storage/snapshot_db.h"
#include "storage/wal.h"

#define STORAGE_VERSION "3.7.0"

enum { READ_BYTES = 1 << 20, TREE_FILES_MAX = 16, UNIT_BYTES = 512 };

struct arguments {
    const char *file;
    const char *data_dir;
    const char *wal_dir;
    bool skip_hash_check;
    bool without_log;
};

static int refuse(FILE *err, const char *format, ...) __attribute__((format(printf, 2, 3)));

static int refuse(FILE *err, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vfprintf(err, format, args);
    va_end(args);
    putc('\n', err);
    return 1;
}

/* Negative: what went wrong with path. */
static int failed(FILE *err, const char *path, int r)
{
    return r < 0 ? refuse(err, "%s: %s", path, err_text(r).text) : r;
}

/* An outcome with its text, which is taken. */
static int outcome(FILE *err, const char *path, int r, char *text)
{
    if (r > 0)
        r = refuse(err, "%s: %s", path, text ? text : "refused");
    free(text);
    return failed(err, path, r);
}

static int parent_sync(const char *path)
{
    const char *slash = strrchr(path, '/');
    _cleanup_(mem_freep) char *parent =
        !slash ? mem_strdup(".") : mem_strndup(path, slash == path ? 1 : (size_t)(slash - path));
    return dir_sync(parent);
}

static int facts_print(FILE *out, const struct snapshot_facts *f)
{
    fprintf(out,
            "{\"revision\":%" PRId64 ",\"revisions\":%" PRIu64 ",\"applied-index\":%" PRIu64
            ",\"applied-term\":%" PRIu64 ",\"bytes\":%" PRIu64 "}\n",
            f->revision, f->n_revisions, f->applied, f->applied_term, f->file_bytes);
    return fflush(out) == 0 ? 0 : 1;
}

/* ---- the digest behind the pages ---- */

/* Of the first len bytes. */
static int digest_of(struct file *f, uint64_t len, uint8_t ret[SHA256_LEN])
{
    _cleanup_(mem_freep) uint8_t *data = mem_alloc_raw(READ_BYTES);
    struct sha256_parts *d = sha256_new();
    uint64_t at = 0;
    size_t n = 1;
    int r = 0;
    for (; r == 0 && at < len && n > 0; at += n) {
        r = file_read(f, at, data, len - at < READ_BYTES ? len - at : READ_BYTES, &n);
        if (r == 0)
            sha256_add(d, bytes_of(data, n));
    }
    sha256_finish(d, ret);
    sha256_free(d);
    return r;
}

static int digest_append(const char *path, uint64_t len)
{
    _cleanup_(file_closep) struct file *f = NULL;
    uint8_t digest[SHA256_LEN];
    int r = file_open(&f, path, FILE_READ | FILE_WRITE);
    if (r == 0)
        r = digest_of(f, len, digest);
    if (r == 0)
        r = file_write(f, len, digest, sizeof(digest));
    return r == 0 ? file_sync(f) : r;
}

static int digest_compare(struct file *f, uint64_t len, bool *ret_same)
{
    uint8_t stored[SHA256_LEN], digest[SHA256_LEN];
    size_t n;
    int r = file_read(f, len, stored, sizeof(stored), &n);
    if (r == 0)
        r = digest_of(f, len, digest);
    if (r == 0)
        *ret_same = n == sizeof(stored) && memcmp(stored, digest, sizeof(digest)) == 0;
    return r;
}

/* Pages are multiples of 512 bytes, so the length says whether a digest follows them. */
static int digest_check(const struct arguments *a, FILE *err)
{
    _cleanup_(file_closep) struct file *f = NULL;
    uint64_t size = 0;
    bool same = true;
    int r = file_open(&f, a->file, FILE_READ);
    if (r == 0)
        r = file_size(f, &size);
    if (r < 0 || a->skip_hash_check)
        return failed(err, a->file, r);
    if (size % UNIT_BYTES != SHA256_LEN)
        return refuse(err, "%s: snapshot missing hash but --skip-hash-check=false", a->file);
    r = digest_compare(f, size - SHA256_LEN, &same);
    if (r == 0 && !same)
        return refuse(err, "%s: its hash is not that of its contents", a->file);
    return failed(err, a->file, r);
}

/* ---- export ---- */

/* A member at rest: nobody else has it open. */
struct member_files {
    struct file *lock;
    struct db *db;
    struct members *members;
};

static void member_close(struct member_files *m)
{
    members_close(m->members);
    db_close(m->db);
    file_close(m->lock);
}

static int member_open(struct member_files *m, const struct arguments *a, FILE *err)
{
    _cleanup_(mem_freep) char *lock = mem_printf("%s/LOCK", a->data_dir),
                              *path = mem_printf("%s/member/db", a->data_dir);
    struct db_options options = {.path = path, .prefix_len = schema_prefix_len, .read_only = true};
    char *text = NULL;
    bool exists = false;
    int r = file_exists(path, &exists);
    if (r == 0 && !exists)
        return refuse(err, "%s: there is no database of Cairn's", a->data_dir);
    if (r == 0)
        r = file_lock(&m->lock, lock);
    if (r == -EWOULDBLOCK)
        return refuse(err, "%s: a member is running on it; use `etcdctl snapshot save`",
                      a->data_dir);
    if (r == 0) {
        r = db_open(&m->db, &options, &text);
        r = outcome(err, path, r, text);
    }
    if (r == 0)
        r = members_open(&m->members, m->db);
    return failed(err, a->data_dir, r);
}

static int last_index(void *arg, const struct wal_record *record)
{
    uint64_t *last = arg;
    if (record->type == WAL_RECORD_ENTRY)
        *last = record->entry.index;
    else if (record->type == WAL_RECORD_SNAPSHOT && record->snapshot_index > *last)
        *last = record->snapshot_index;
    return 0;
}

/* 0 if nothing is applied yet. */
static int applied_get(struct db *db, uint64_t *ret)
{
    _cleanup_(buf_deinit) struct buf key = BUF_NULL;
    _cleanup_(db_value_release) struct db_value value = {0};
    schema_meta(&key, "applied");
    int r = db_get(db, NULL, buf_bytes(&key), &value);
    if (r == 0 && value.bytes.len < 8)
        return err_origin(-EBADMSG);
    *ret = r == 0 ? u64_be_get(value.bytes.data) : 0;
    return r == DB_E_NOT_FOUND ? 0 : r;
}

/* What a member acknowledged is in its log; the database follows. */
static int log_check(const struct arguments *a, struct db *db, FILE *err)
{
    _cleanup_(mem_freep) char *wal =
        a->wal_dir ? mem_strdup(a->wal_dir) : mem_printf("%s/member/wal", a->data_dir);
    char *text = NULL;
    uint64_t last = 0, applied;
    int r = failed(err, a->data_dir, applied_get(db, &applied));
    if (r != 0 || a->without_log)
        return r;
    r = wal_read(wal, last_index, &last, &text);
    if (r != 0 && r != WAL_E_MISSING)
        return outcome(err, wal, r, text);
    if (last <= applied)
        return 0;
    return refuse(err,
                  "%s: the log goes on to index %" PRIu64 ", the database ends at %" PRIu64
                  ": start and stop the member, or give --without-log",
                  a->data_dir, last, applied);
}

static int state_export(struct member_files *m, const char *path, struct snapshot_facts *ret,
                        FILE *err)
{
    struct raft_conf_state conf;
    struct db_view *view = db_view_new(m->db);
    members_conf(m->members, &conf);
    struct snapshot_export_options options = {
        .db = m->db,
        .view = view,
        .path = path,
        .storage_version = STORAGE_VERSION,
        .conf = &conf,
    };
    char *text = NULL;
    int r = snapshot_export(&options, ret, &text);
    r = outcome(err, path, r, text);
    raft_conf_state_clear(&conf);
    db_view_free(m->db, view);
    return r;
}

static int file_place(const char *part, const char *path, uint64_t len)
{
    int r = digest_append(part, len);
    if (r == 0)
        r = file_rename(part, path);
    return r == 0 ? parent_sync(path) : r;
}

static int snapshot_export_to(const struct arguments *a, FILE *out, FILE *err)
{
    _cleanup_(member_close) struct member_files m = {0};
    _cleanup_(mem_freep) char *part = mem_printf("%s.part", a->file);
    struct snapshot_facts facts = {0};
    int r = member_open(&m, a, err);
    if (r == 0)
        r = log_check(a, m.db, err);
    if (r == 0)
        r = state_export(&m, part, &facts, err);
    if (r == 0)
        r = failed(err, a->file, file_place(part, a->file, facts.file_bytes));
    if (r != 0)
        (void)file_remove(part);
    return r == 0 ? facts_print(out, &facts) : r;
}

/* ---- import ---- */

static int tree_visit(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    return remove(path);
}

static int tree_remove(const char *path)
{
    int r = nftw(path, tree_visit, TREE_FILES_MAX, FTW_DEPTH | FTW_PHYS);
    return r == 0 || errno == ENOENT ? 0 : -errno;
}

static int found_name(void *arg, const char *name)
{
    return 1;
}

static int free_check(const char *dir, FILE *err)
{
    int r = dir_list(dir, found_name, NULL);
    if (r == 0 || r == -ENOENT)
        return 0;
    return refuse(err, "data-dir \"%s\" not empty or could not be read", dir);
}

/* Opens what was made as a member does. */
static int state_check(struct db *db)
{
    struct mvcc *m = NULL;
    int r = mvcc_open(&m, &(struct mvcc_options){.db = db});
    mvcc_close(m);
    return r;
}

static int state_import(const struct arguments *a, const char *dir, struct snapshot_facts *ret,
                        FILE *err)
{
    _cleanup_(db_closep) struct db *db = NULL;
    _cleanup_(mem_freep) char *path = mem_printf("%s/member/db", dir),
                              *sort = mem_printf("%s/sort", dir);
    char *text = NULL;
    struct db_options options = {.path = path, .prefix_len = schema_prefix_len};
    int r = db_open(&db, &options, &text);
    r = outcome(err, path, r, text);
    if (r != 0)
        return r;
    struct snapshot_import_options o = {
        .db = db, .path = a->file, .sort_path = sort, .new_cluster = true};
    text = NULL;
    r = snapshot_import(&o, ret, &text);
    r = outcome(err, a->file, r, text);
    return r == 0 ? failed(err, path, state_check(db)) : r;
}

static int dir_place(const char *part, const char *dir)
{
    _cleanup_(mem_freep) char *member = mem_printf("%s/member", part);
    int r = dir_sync(member);
    if (r == 0)
        r = dir_sync(part);
    if (r == 0)
        r = file_rename(part, dir);
    return r == 0 ? parent_sync(dir) : r;
}

static int dir_import(const struct arguments *a, const char *part, struct snapshot_facts *ret,
                      FILE *err)
{
    _cleanup_(mem_freep) char *member = mem_printf("%s/member", part);
    int r = tree_remove(part);
    if (r == 0)
        r = dir_make(member);
    if (r < 0)
        return failed(err, part, r);
    r = state_import(a, part, ret, err);
    return r == 0 ? failed(err, a->data_dir, dir_place(part, a->data_dir)) : r;
}

static int snapshot_import_from(const struct arguments *a, FILE *out, FILE *err)
{
    size_t len = strlen(a->data_dir);
    while (len > 1 && a->data_dir[len - 1] == '/')
        len--;
    _cleanup_(mem_freep) char *part = mem_printf("%.*s.part", (int)len, a->data_dir);
    struct snapshot_facts facts;
    int r = free_check(a->data_dir, err);
    if (r == 0)
        r = digest_check(a, err);
    if (r != 0)
        return r;
    r = dir_import(a, part, &facts, err);
    if (r != 0)
        (void)tree_remove(part);
    return r == 0 ? facts_print(out, &facts) : r;
}

/* ---- arguments ---- */

static bool parse(int argc, char **argv, struct arguments *a)
{
    enum { DATA_DIR, WAL_DIR, SKIP, WITHOUT };
    static const struct option options[] = {
        {"data-dir", required_argument, NULL, DATA_DIR},
        {"wal-dir", required_argument, NULL, WAL_DIR},
        {"skip-hash-check", no_argument, NULL, SKIP},
        {"without-log", no_argument, NULL, WITHOUT},
        {0},
    };
    int option;
    optind = 0;
    opterr = 0;
    while ((option = getopt_long_only(argc, argv, "", options, NULL)) >= 0) {
        switch (option) {
        case DATA_DIR: a->data_dir = optarg; break;
        case WAL_DIR: a->wal_dir = optarg; break;
        case SKIP: a->skip_hash_check = true; break;
        case WITHOUT: a->without_log = true; break;
        default: return false;
        }
    }
    a->file = argv[optind];
    return optind == argc - 1 && a->data_dir;
}

int cairnutl_snapshot(int argc, char **argv, FILE *out, FILE *err)
{
    struct arguments a = {0};
    bool parsed = argc > 0 && parse(argc, argv, &a);
    if (parsed && strcmp(argv[0], "export") == 0 && !a.skip_hash_check)
        return snapshot_export_to(&a, out, err);
    if (parsed && strcmp(argv[0], "import") == 0 && !a.wal_dir && !a.without_log)
        return snapshot_import_from(&a, out, err);
    fputs("usage: cairnutl snapshot export FILE --data-dir DIR [--wal-dir DIR] [--without-log]\n"
          "       cairnutl snapshot import FILE --data-dir DIR [--skip-hash-check]\n",
          err);
    return 2;
}

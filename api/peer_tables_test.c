/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Directories on the wire: whole, in pieces, cut off, changed; names that would lead elsewhere; a
 * disk that does not write. The writing ahead of the sync is this program's own.
 */
#include "api/peer_tables.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "base/digest.h"
#include "storage/test_dir.h"

static struct {
    unsigned n_waits;
    unsigned failing; /* flags of the calls that fail */
    int error;
} behind;

int sync_file_range(int fd, off64_t from, off64_t len, unsigned flags)
{
    behind.n_waits += flags == SYNC_FILE_RANGE_WAIT_BEFORE;
    errno = behind.error;
    return flags & behind.failing ? -1 : 0;
}

static void file_write(const char *dir, const char *name, struct bytes content)
{
    _cleanup_(mem_freep) char *path = mem_printf("%s/%s", dir, name);
    FILE *f = fopen(path, "wb");

    assert_non_null(f);
    if (content.len > 0)
        assert_int_equal(fwrite(content.data, 1, content.len, f), content.len);
    fclose(f);
}

static struct buf file_read_all(const char *dir, const char *name)
{
    _cleanup_(mem_freep) char *path = mem_printf("%s/%s", dir, name);
    struct buf b = BUF_NULL;
    FILE *f = fopen(path, "rb");

    assert_non_null(f);
    buf_reserve(&b, 1 << 20);
    b.len = fread(b.data, 1, 1 << 20, f);
    fclose(f);
    return b;
}

static void entry_append(struct buf *out, const char *name, struct bytes content)
{
    peer_tables_head(out, &(struct peer_table_file){(char *)name, content.len});
    buf_append_bytes(out, content);
    buf_append_u32_be(out, crc32c(0, content.data, content.len));
}

static void end_append(struct buf *out)
{
    buf_append_zero(out, 2);
}

struct fixture {
    char *dir;
    char *target;
};

static int setup(void **state)
{
    struct fixture *f = mem_new(struct fixture);

    f->dir = test_dir_new();
    f->target = mem_printf("%s/target", f->dir);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    test_dir_remove(f->dir);
    free(f->target);
    free(f);
    return 0;
}

/* Feeds the body in pieces of at most piece bytes; the last outcome. */
static int feed(struct fixture *f, const struct buf *body, size_t piece)
{
    struct peer_tables_reader r;
    int outcome = peer_tables_reader_init(&r, f->target);

    for (size_t at = 0; at < body->len && (at == 0 || outcome == PEER_TABLES_MORE);) {
        size_t n = body->len - at < piece ? body->len - at : piece;
        struct bytes in = bytes_of(body->data + at, n);
        outcome = peer_tables_read(&r, &in);
        assert_true(outcome != PEER_TABLES_MORE || in.len == 0);
        at += n - in.len;
        if (outcome == 0 && at < body->len) {
            in = bytes_of(body->data + at, body->len - at);
            outcome = peer_tables_read(&r, &in);
        }
    }
    peer_tables_reader_deinit(&r);
    return outcome;
}

static void target_clear(struct fixture *f)
{
    struct stat st;

    peer_tables_remove(f->target);
    assert_int_equal(stat(f->target, &st), -1);
}

static void a_directory_arrives_as_it_was(void **state)
{
    struct fixture *f = *state;
    _cleanup_(buf_deinit) struct buf big = BUF_NULL, body = BUF_NULL;
    static const size_t pieces[] = {1, 3, 7, 100, 1 << 20};
    struct peer_tables t;
    _cleanup_(mem_freep) char *source = mem_printf("%s/source", f->dir);

    for (unsigned i = 0; i < 5000; i++)
        buf_append_u32_be(&big, i * 2654435761u);
    assert_int_equal(mkdir(source, 0700), 0);
    file_write(source, "CURRENT", BYTES_LIT("MANIFEST-000004\n"));
    file_write(source, "000012.sst", buf_bytes(&big));
    file_write(source, "empty", BYTES_NULL);
    assert_int_equal(peer_tables_list(source, &t), 0);
    assert_int_equal(t.len, 3);
    for (size_t i = 0; i < t.len; i++) {
        _cleanup_(buf_deinit) struct buf content = file_read_all(source, t.files[i].name);
        entry_append(&body, t.files[i].name, buf_bytes(&content));
    }
    end_append(&body);
    assert_int_equal(body.len, t.body_bytes);
    peer_tables_deinit(&t);
    for (size_t i = 0; i < sizeof(pieces) / sizeof(pieces[0]); i++) {
        assert_int_equal(feed(f, &body, pieces[i]), 0);
        _cleanup_(buf_deinit) struct buf copy = file_read_all(f->target, "000012.sst");
        assert_true(bytes_equal(buf_bytes(&copy), buf_bytes(&big)));
        target_clear(f);
    }
}

/* Linux tells of a write that failed once: to who waits for it, and then not to who syncs. */
static void a_write_that_failed_is_told(void **state)
{
    enum { MIB = 1 << 20 };
    static const unsigned calls[] = {SYNC_FILE_RANGE_WRITE, SYNC_FILE_RANGE_WAIT_BEFORE};
    struct fixture *f = *state;
    _cleanup_(buf_deinit) struct buf big = BUF_NULL, body = BUF_NULL;

    buf_append_zero(&big, 3 * MIB);
    entry_append(&body, "000012.sst", buf_bytes(&big));
    end_append(&body);
    behind.n_waits = 0;
    assert_int_equal(feed(f, &body, MIB / 4), 0);
    assert_int_equal(behind.n_waits, 2); /* for the first two */
    target_clear(f);
    for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
        behind.failing = calls[i];
        behind.error = EIO;
        assert_int_equal(feed(f, &body, MIB / 4), -EIO);
        target_clear(f);
        behind.error = EINVAL; /* the file system doesn't know how */
        assert_int_equal(feed(f, &body, MIB / 4), 0);
        target_clear(f);
    }
    behind.failing = 0;
}

static void what_is_cut_off_is_never_complete(void **state)
{
    struct fixture *f = *state;
    _cleanup_(buf_deinit) struct buf body = BUF_NULL;

    entry_append(&body, "a.sst", BYTES_LIT("some bytes"));
    entry_append(&body, "b", BYTES_NULL);
    end_append(&body);
    for (size_t len = body.len - 1; len > 0; len--) {
        struct buf part = {body.data, len, 0};
        assert_int_equal(feed(f, &part, len), PEER_TABLES_MORE);
        target_clear(f);
    }
}

static void no_changed_byte_passes(void **state)
{
    struct fixture *f = *state;
    _cleanup_(buf_deinit) struct buf body = BUF_NULL;

    entry_append(&body, "a.sst", BYTES_LIT("some bytes"));
    end_append(&body);
    for (size_t i = 2 + 5; i < body.len; i++) { /* another name is another name */
        body.data[i] ^= 0x20;
        assert_int_not_equal(feed(f, &body, body.len), 0);
        body.data[i] ^= 0x20;
        target_clear(f);
    }
    buf_append_u8(&body, 0);
    assert_int_equal(feed(f, &body, body.len), PEER_TABLES_WRONG);
}

static void names_that_lead_elsewhere_are_refused(void **state)
{
    static const char *const names[] = {
        "..", ".", "...", "a/b", "/etc/passwd", "../x", "a b", "\x01", "caf\xc3\xa9", "a\\b", "~",
    };
    struct fixture *f = *state;

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        _cleanup_(buf_deinit) struct buf body = BUF_NULL;
        entry_append(&body, names[i], BYTES_LIT("x"));
        end_append(&body);
        assert_int_equal(feed(f, &body, body.len), PEER_TABLES_WRONG);
        target_clear(f);
    }
    _cleanup_(buf_deinit) struct buf nul = BUF_NULL, longer = BUF_NULL, twice = BUF_NULL;
    buf_append(&nul, "\0\2a\0", 4);
    buf_append_zero(&nul, 16);
    assert_int_equal(feed(f, &nul, nul.len), PEER_TABLES_WRONG);
    target_clear(f);
    buf_append(&longer, "\1\0", 2);
    assert_int_equal(feed(f, &longer, longer.len), PEER_TABLES_WRONG);
    target_clear(f);
    entry_append(&twice, "a", BYTES_LIT("1"));
    entry_append(&twice, "a", BYTES_LIT("2"));
    assert_int_equal(feed(f, &twice, twice.len), PEER_TABLES_WRONG);
}

static void what_is_no_file_is_not_sent(void **state)
{
    struct fixture *f = *state;
    _cleanup_(mem_freep) char *inner = mem_printf("%s/inner", f->dir),
                              *link = mem_printf("%s/link", f->dir);
    struct peer_tables t;

    assert_int_equal(peer_tables_list(f->target, &t), -ENOENT);
    assert_int_equal(mkdir(inner, 0700), 0);
    assert_int_equal(peer_tables_list(f->dir, &t), -EINVAL);
    assert_int_equal(rmdir(inner), 0);
    assert_int_equal(symlink("/etc/hostname", link), 0);
    assert_int_equal(peer_tables_list(f->dir, &t), -EINVAL);
}

static void a_target_that_is_there_already_is_left_alone(void **state)
{
    struct fixture *f = *state;
    struct peer_tables_reader r;

    assert_int_equal(mkdir(f->target, 0700), 0);
    assert_int_equal(peer_tables_reader_init(&r, f->target), -EEXIST);
    peer_tables_reader_deinit(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_directory_arrives_as_it_was, setup, teardown),
        cmocka_unit_test_setup_teardown(a_write_that_failed_is_told, setup, teardown),
        cmocka_unit_test_setup_teardown(what_is_cut_off_is_never_complete, setup, teardown),
        cmocka_unit_test_setup_teardown(no_changed_byte_passes, setup, teardown),
        cmocka_unit_test_setup_teardown(names_that_lead_elsewhere_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(what_is_no_file_is_not_sent, setup, teardown),
        cmocka_unit_test_setup_teardown(a_target_that_is_there_already_is_left_alone, setup,
                                        teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* cairnutl log: what it prints for a log with overwritten entries, and for a damaged one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/mem.h"
#include "server/cairnutl_log.h"
#include "storage/file.h"
#include "storage/test_dir.h"
#include "storage/wal.h"

static void append(struct wal *w, uint64_t index, uint64_t term, enum raft_entry_type type,
                   const char *text)
{
    struct raft_entry e = {.index = index, .term = term, .type = type};

    e.data = *text ? blob_copy(bytes_str(text)) : NULL;
    assert_int_equal(wal_append(w, NULL, &e, 1), 0);
    blob_unref(e.data);
}

static void make_log(const char *dir)
{
    _cleanup_(mem_freep) char *wal_dir = mem_printf("%s/member/wal", dir);
    struct wal_options o = {.dir = wal_dir, .create = true, .segment_bytes = 4096};
    struct wal_recovery rec;
    struct wal *w = NULL;

    assert_int_equal(wal_open(&w, &o, &rec), 0);
    append(w, 1, 1, RAFT_ENTRY_CONF_CHANGE, "a");
    append(w, 2, 1, RAFT_ENTRY_NORMAL, "lost");
    append(w, 3, 1, RAFT_ENTRY_NORMAL, "lost");
    append(w, 2, 2, RAFT_ENTRY_NORMAL, "ab");
    append(w, 3, 2, RAFT_ENTRY_NORMAL, "");
    append(w, 4, 2, RAFT_ENTRY_CONF_CHANGE_V2, "\xff\xfe\xfd");
    struct raft_hard_state hs = {.term = 2, .vote = 1, .commit = 3, .lost_tail_index = 9};
    assert_int_equal(wal_append(w, &hs, NULL, 0), 0);
    wal_close(w);
}

/* Runs the tool; *ret is what it printed. */
static int run(char **ret, char **ret_err, int argc, char **argv)
{
    size_t len, err_len;
    FILE *out = open_memstream(ret, &len);
    FILE *err = open_memstream(ret_err, &err_len);
    int r = cairnutl_log(argc, argv, out, err);

    fclose(out);
    fclose(err);
    return r;
}

static void expect(char **argv, int argc, int code, const char *out, const char *err)
{
    char *got = NULL, *got_err = NULL;

    assert_int_equal(run(&got, &got_err, argc, argv), code);
    assert_string_equal(got, out);
    if (!strstr(got_err, err))
        print_error("%s\n", got_err);
    assert_non_null(strstr(got_err, err));
    free(got);
    free(got_err);
}

static void test_dump_and_verify(void **state)
{
    char *dir = test_dir_new();
    _cleanup_(mem_freep) char *joined = mem_printf("--data-dir=%s", dir);
    _cleanup_(mem_freep) char *wal_dir = mem_printf("%s/member/wal", dir);

    expect((char *[]){"dump", joined}, 2, 1, "", "there is no raft log");
    make_log(dir);
    const char *want =
        "{\"commit\":3}\n"
        "{\"index\":1,\"term\":1,\"type\":\"EntryConfChange\",\"data\":\"YQ==\"}\n"
        "{\"index\":2,\"term\":2,\"type\":\"EntryNormal\",\"data\":\"YWI=\"}\n"
        "{\"index\":3,\"term\":2,\"type\":\"EntryNormal\",\"data\":\"\"}\n"
        "{\"index\":4,\"term\":2,\"type\":\"EntryConfChangeV2\",\"data\":\"//79\"}\n";
    expect((char *[]){"dump", joined}, 2, 0, want, "");
    expect((char *[]){"dump", "-wal-dir", wal_dir}, 3, 0, want, "");
    expect((char *[]){"verify", joined}, 2, 0,
           "{\"records\":7,\"first-index\":1,\"last-index\":4,\"commit\":3,\"snapshot-index\":0}\n",
           "");
    test_dir_remove(dir);
}

static void test_damage(void **state)
{
    char *dir = test_dir_new();
    _cleanup_(mem_freep) char *path = mem_printf("%s/member/wal/0000000000000001.log", dir);
    struct file *f = NULL;

    make_log(dir);
    assert_int_equal(file_open(&f, path, FILE_WRITE), 0);
    assert_int_equal(file_write(f, 300, "x", 1), 0);
    f = file_close(f);
    expect((char *[]){"verify", "--data-dir", dir}, 3, 1, "", "altered");
    expect((char *[]){"dump", "--data-dir", dir}, 3, 1, "", "altered");
    test_dir_remove(dir);
}

static void test_usage(void **state)
{
    expect((char *[]){"dump"}, 1, 2, "", "usage");
    expect((char *[]){"dump", "--data-dir"}, 2, 2, "", "usage");
    expect((char *[]){"dump", "--data-dirx=1"}, 2, 2, "", "usage");
    expect((char *[]){"show", "--data-dir", "x"}, 3, 2, "", "usage");
    expect((char *[]){""}, 0, 2, "", "usage");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dump_and_verify),
        cmocka_unit_test(test_damage),
        cmocka_unit_test(test_usage),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What RocksDB runs with, read from the file in which it keeps its options. Each line keeps out
 * something that others lost data by:
 *
 *   one column family            with several and no log of its own, those that a flush or a
 *                                checkpoint left out lost their writes (rocksdb 11148)
 *   two write buffers            one can be flushed at a time, so always the oldest (10921)
 *   paranoid checks              a block that can't be read ends the member instead of being
 *                                skipped by a compaction
 *   no merges, no range deletes  nothing that older releases read wrongly after an error
 *
 * And the brake (db_set_brake).
 */
#include "storage/db.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <dirent.h>

#include "storage/test_dir.h"

enum { FILE_BYTES_MAX = 64 << 10 };

/* The newest OPTIONS file; freed by the caller. */
static char *options_path(const char *dir)
{
    DIR *d = opendir(dir);
    char *newest = NULL;
    struct dirent *e;

    assert_non_null(d);
    while ((e = readdir(d))) {
        if (strncmp(e->d_name, "OPTIONS-", strlen("OPTIONS-")) != 0 || strchr(e->d_name, '.'))
            continue;
        char *path = mem_printf("%s/%s", dir, e->d_name);
        if (newest && strcmp(newest, path) > 0) {
            free(path);
            continue;
        }
        free(newest);
        newest = path;
    }
    closedir(d);
    assert_non_null(newest);
    return newest;
}

static void read_options(const char *dir, char *ret)
{
    char *path = options_path(dir);
    FILE *f = fopen(path, "r");
    size_t n;

    assert_non_null(f);
    n = fread(ret, 1, FILE_BYTES_MAX - 1, f);
    assert_in_range(n, 1, FILE_BYTES_MAX - 2);
    ret[n] = 0;
    fclose(f);
    free(path);
}

static size_t count_of(const char *text, const char *what)
{
    size_t n = 0;

    for (; (text = strstr(text, what)); text += strlen(what))
        n++;
    return n;
}

static void must_stand_there(const char *dir, const char *line)
{
    static char text[FILE_BYTES_MAX];

    read_options(dir, text);
    if (count_of(text, line) != 1)
        fail_msg("%s stands there %zu times", line, count_of(text, line));
}

static void test_options(void **state)
{
    static const char *const once[] = {
        "[CFOptions \"default\"]",
        "max_write_buffer_number=2\n",
        "min_write_buffer_number_to_merge=1\n",
        "paranoid_checks=true\n",
        "max_background_jobs=2\n",
        "merge_operator=nullptr\n",
        "allow_2pc=false\n",
        "unordered_write=false\n",
        "checksum=kXXH3\n",
    };
    char *dir = test_dir_new();
    struct db *db = test_db_open(dir);

    must_stand_there(dir, "[CFOptions ");
    for (size_t i = 0; i < sizeof(once) / sizeof(once[0]); i++)
        must_stand_there(dir, once[i]);
    db_close(db);
    test_dir_remove(dir);
}

static void test_brake(void **state)
{
    char *dir = test_dir_new();
    struct db *db = test_db_open(dir);

    must_stand_there(dir, "level0_slowdown_writes_trigger=20\n");
    must_stand_there(dir, "level0_stop_writes_trigger=36\n");
    for (int i = 0; i < 2; i++) {
        assert_int_equal(db_set_brake(db, false), 0);
        must_stand_there(dir, "level0_slowdown_writes_trigger=1073741824\n");
        must_stand_there(dir, "level0_stop_writes_trigger=1073741824\n");
    }
    for (int i = 0; i < 2; i++) {
        assert_int_equal(db_set_brake(db, true), 0);
        must_stand_there(dir, "level0_slowdown_writes_trigger=20\n");
        must_stand_there(dir, "level0_stop_writes_trigger=36\n");
    }
    db_close(db);
    test_dir_remove(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_options),
                                       cmocka_unit_test(test_brake)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}

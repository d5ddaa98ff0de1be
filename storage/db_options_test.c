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
    static char text[FILE_BYTES_MAX];
    char *dir = test_dir_new();
    struct db *db = test_db_open(dir);

    read_options(dir, text);
    assert_int_equal(count_of(text, "[CFOptions "), 1);
    for (size_t i = 0; i < sizeof(once) / sizeof(once[0]); i++) {
        if (count_of(text, once[i]) != 1)
            fail_msg("%s stands there %zu times", once[i], count_of(text, once[i]));
    }
    db_close(db);
    test_dir_remove(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_options)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* For tests: a scratch directory of their own, and a store of ours in it. */
#pragma once

#include <dirent.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/check.h"
#include "base/mem.h"
#include "storage/db.h"
#include "storage/schema.h"

static inline char *test_dir_new(void)
{
    const char *tmp = getenv("TMPDIR");
    char *path = mem_printf("%s/cairn-test-XXXXXX", tmp ? tmp : "/tmp");
    check(mkdtemp(path));
    return path;
}

static inline int test_dir_visit(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    return remove(path);
}

static inline void test_dir_remove(char *path)
{
    check(nftw(path, test_dir_visit, 16, FTW_DEPTH | FTW_PHYS) == 0);
    free(path);
}

/* How many names it has, . and .. not counted. */
static inline size_t test_dir_count(const char *path)
{
    DIR *dir = opendir(path);
    size_t n = 0;

    check(dir);
    while (readdir(dir))
        n++;
    closedir(dir);
    return n - 2;
}

static inline struct db *test_db_open(const char *path)
{
    struct db_options options = {.path = path, .prefix_len = schema_prefix_len};
    struct db *db = NULL;
    char *error = NULL;
    int r = db_open(&db, &options, &error);
    if (r != 0)
        fprintf(stderr, "%s: %s\n", path, error ? error : "?");
    check(r == 0);
    return db;
}

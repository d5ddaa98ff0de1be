/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A store whose files were damaged, bit by bit: every read then gives the right value or an error,
 * never a wrong value and never a false "not found"; or the store is refused when it is opened. The
 * reason names the file. RocksDB only. DAMAGE_SEED=n plays another series.
 */
#include "storage/db.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>

#include "base/rng.h"
#include "storage/test_dir.h"

enum {
    RECORDS = 1500,
    TABLES = 2,
    VALUE_BYTES_MAX = 300,
    KEY_BYTES = 9,
    FLIPS = 150,
    FILES_MAX = 8
};

struct record {
    char key[KEY_BYTES + 1];
    uint8_t value[VALUE_BYTES_MAX];
    size_t value_len;
};

static uint64_t seed = 1;

/* Values that don't compress, of all sizes. */
static void record_make(struct record *ret, unsigned i)
{
    struct rng rng;

    rng_init(&rng, i);
    snprintf(ret->key, sizeof(ret->key), "hkey%05u", i % 100000);
    ret->value_len = i % VALUE_BYTES_MAX;
    for (size_t at = 0; at < ret->value_len; at++)
        ret->value[at] = (uint8_t)rng_next(&rng);
}

static void fill(const char *dir)
{
    struct db *db = test_db_open(dir);
    struct db_batch *b = db_batch_new();
    struct record record;

    for (unsigned table = 0; table < TABLES; table++) {
        db_batch_clear(b);
        for (unsigned i = table; i < RECORDS; i += TABLES) {
            record_make(&record, i);
            db_batch_put(b, bytes_str(record.key), bytes_of(record.value, record.value_len));
        }
        assert_int_equal(db_write(db, b), 0);
        assert_int_equal(db_flush(db), 0);
    }
    db_batch_free(b);
    db_close(db);
}

/* ---- files ---- */

struct files {
    char *paths[FILES_MAX];
    size_t len;
};

static void files_list(struct files *f, const char *dir, const char *part)
{
    DIR *d = opendir(dir);
    struct dirent *e;

    *f = (struct files){.len = 0};
    assert_non_null(d);
    while ((e = readdir(d)))
        if (strstr(e->d_name, part) && f->len < FILES_MAX)
            f->paths[f->len++] = mem_printf("%s/%s", dir, e->d_name);
    closedir(d);
    assert_true(f->len > 0);
}

static void files_free(struct files *f)
{
    for (size_t i = 0; i < f->len; i++)
        free(f->paths[i]);
}

static void flip(const char *path, uint64_t bit)
{
    int fd = open(path, O_RDWR);
    uint8_t byte;

    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &byte, 1, (off_t)(bit / 8)), 1);
    byte ^= (uint8_t)(1u << bit % 8);
    assert_int_equal(pwrite(fd, &byte, 1, (off_t)(bit / 8)), 1);
    close(fd);
}

static uint64_t file_bits(const char *path)
{
    struct stat st;

    assert_int_equal(stat(path, &st), 0);
    return (uint64_t)st.st_size * 8;
}

/* ---- reading ---- */

/* How many reads failed; a wrong answer fails the test. */
static unsigned get_all(struct db *db)
{
    struct record record;
    unsigned failed = 0;

    for (unsigned i = 0; i < RECORDS; i++) {
        struct db_value value = {0};
        record_make(&record, i);
        int r = db_get(db, NULL, bytes_str(record.key), &value);
        if (r == 0)
            assert_true(bytes_equal(value.bytes, bytes_of(record.value, record.value_len)));
        else
            assert_int_equal(r, -EBADMSG);
        failed += r != 0;
        db_value_release(&value);
    }
    return failed;
}

static unsigned walk_all(struct db *db)
{
    struct db_iter *it = db_iter_new(db, &(struct db_iter_options){.view = NULL});
    struct record record;
    unsigned i = 0;

    for (db_iter_seek(it, BYTES_LIT("h")); db_iter_valid(it); db_iter_next(it)) {
        record_make(&record, i++);
        assert_true(bytes_equal(db_iter_key(it), bytes_str(record.key)));
        assert_true(bytes_equal(db_iter_value(it), bytes_of(record.value, record.value_len)));
    }
    int r = db_iter_error(it);
    assert_true(r == -EBADMSG || (r == 0 && i == RECORDS));
    db_iter_free(it);
    return r != 0;
}

/* By its number: RocksDB looks for a missing table under an older suffix, too. */
static bool names(const char *error, const char *path)
{
    char *name = mem_strdup(strrchr(path, '/'));

    name[strcspn(name, ".")] = '\0';
    bool found = strstr(error, name);
    free(name);
    return found;
}

/* True: the damage was met. */
static bool read_damaged(const char *dir, const char *path)
{
    struct db_options options = {.path = dir, .prefix_len = schema_prefix_len};
    struct db *db = NULL;
    char *error = NULL;
    int r = db_open(&db, &options, &error);

    if (r != 0) {
        assert_int_equal(r, DB_E_CORRUPT);
        assert_true(names(error, path));
        assert_non_null(strstr(error, "restore a snapshot"));
        free(error);
        return true;
    }
    unsigned failed = get_all(db) + walk_all(db);
    db_close(db);
    return failed > 0;
}

static void test_table(void **state)
{
    char *dir = test_dir_new();
    struct files tables;
    struct rng rng;
    unsigned met = 0;

    rng_init(&rng, seed);
    fill(dir);
    files_list(&tables, dir, ".sst");
    assert_int_equal(tables.len, TABLES);
    for (int i = 0; i < FLIPS; i++) {
        const char *path = tables.paths[rng_below(&rng, tables.len)];
        uint64_t bit = rng_below(&rng, file_bits(path));
        flip(path, bit);
        met += read_damaged(dir, path);
        flip(path, bit);
    }
    assert_false(read_damaged(dir, tables.paths[0]));
    print_message("%u of %d flips were met\n", met, FLIPS);
    assert_true(met > FLIPS / 2);
    files_free(&tables);
    test_dir_remove(dir);
}

/* A compaction that meets the damage says so, and is the end of the store. */
static void test_compaction(void **state)
{
    char *dir = test_dir_new();
    struct files tables;
    struct db *db;

    fill(dir);
    files_list(&tables, dir, ".sst");
    flip(tables.paths[0], 8 * 100);
    db = test_db_open(dir);
    assert_int_equal(db_compact(db, NULL, NULL), -EBADMSG);
    struct db_batch *b = db_batch_new();
    db_batch_put(b, BYTES_LIT("hkey"), BYTES_LIT("v"));
    assert_int_equal(db_write(db, b), -EBADMSG);
    db_batch_free(b);
    db_close(db);
    files_free(&tables);
    test_dir_remove(dir);
}

/* Missing, or named wrongly. */
static void test_missing(void **state)
{
    static const char *const parts[] = {".sst", "MANIFEST-"};

    for (size_t i = 0; i < 2; i++) {
        char *dir = test_dir_new();
        struct files files;
        fill(dir);
        files_list(&files, dir, parts[i]);
        assert_int_equal(unlink(files.paths[0]), 0);
        assert_true(read_damaged(dir, files.paths[0]));
        files_free(&files);
        test_dir_remove(dir);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_compaction),
        cmocka_unit_test(test_missing),
    };

    if (getenv("DAMAGE_SEED"))
        seed = strtoull(getenv("DAMAGE_SEED"), NULL, 10);
    print_message("DAMAGE_SEED=%llu\n", (unsigned long long)seed);
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The store's contract, run against either implementation: batches, views, iterators and their
 * bounds, against a plain sorted array with a copy for each view. What only RocksDB can do (locks,
 * damage, crashes) is tested there only; it is known by the files that it makes. Seeds are fixed.
 */
#include "storage/db.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <sys/wait.h>

#include "base/rng.h"
#include "storage/file.h"
#include "storage/test_dir.h"

enum { MODEL_KEYS = 64, STEPS = 3000, VIEWS_MAX = 4, KEY_LEN = 5 };

/* Keys "h" + four bytes, so that the prefix bloom is in play; present[i] = the value's number, 0 =
 * absent. */
struct model {
    uint32_t present[MODEL_KEYS];
};

struct fixture {
    char *dir;
    struct db *db;
};

static int setup(void **state)
{
    struct fixture *f = mem_new(struct fixture);
    f->dir = test_dir_new();
    f->db = test_db_open(f->dir);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    db_close(f->db);
    test_dir_remove(f->dir);
    free(f);
    return 0;
}

static struct bytes key_of(int i, uint8_t out[KEY_LEN])
{
    static const uint8_t letters[] = {0x00, 0x01, 'a', 0xFF};
    out[0] = 'h';
    for (int d = 0; d < 3; d++)
        out[1 + d] = letters[(i >> (2 * (2 - d))) & 3];
    out[4] = 'z';
    return bytes_of(out, KEY_LEN);
}

static void value_is(struct bytes value, uint32_t number)
{
    assert_int_equal(value.len, 4);
    assert_int_equal(u32_be_get(value.data), number);
}

static void compare_all(struct db *db, const struct db_view *view, const struct model *model)
{
    struct db_iter_options options = {.view = view, .upper = BYTES_LIT("i")};
    struct db_iter *it = db_iter_new(db, &options);
    uint8_t buf[KEY_LEN];
    db_iter_seek(it, BYTES_LIT("h"));
    for (int i = 0; i < MODEL_KEYS; i++) {
        struct db_value value = {0};
        int r = db_get(db, view, key_of(i, buf), &value);
        assert_int_equal(r, model->present[i] ? 0 : DB_E_NOT_FOUND);
        if (r != 0)
            continue;
        value_is(value.bytes, model->present[i]);
        db_value_release(&value);
        assert_true(db_iter_valid(it));
        assert_true(bytes_equal(db_iter_key(it), key_of(i, buf)));
        value_is(db_iter_value(it), model->present[i]);
        db_iter_next(it);
    }
    assert_false(db_iter_valid(it));
    assert_int_equal(db_iter_error(it), 0);
    db_iter_free(it);
}

static void compare_seeks(struct db *db, const struct db_view *view, const struct model *model,
                          struct rng *rng)
{
    uint8_t buf[KEY_LEN], upper[KEY_LEN], prefix[KEY_LEN];
    int at = (int)rng_below(rng, MODEL_KEYS);
    int end = (int)rng_below(rng, MODEL_KEYS);
    struct db_iter_options options = {.view = view, .upper = key_of(end, upper)};
    struct db_iter *it = db_iter_new(db, &options);
    int want = at;
    while (want < end && !model->present[want])
        want++;
    db_iter_seek(it, key_of(at, buf));
    assert_int_equal(db_iter_valid(it), want < end);
    if (want < end)
        assert_true(bytes_equal(db_iter_key(it), key_of(want, buf)));
    db_iter_free(it);

    it = db_iter_new(db, &(struct db_iter_options){.view = view});
    for (want = at; want >= 0 && !model->present[want];)
        want--;
    db_iter_seek_last(it, key_of(at, buf));
    assert_int_equal(db_iter_valid(it), want >= 0);
    if (want >= 0)
        assert_true(bytes_equal(db_iter_key(it), key_of(want, buf)));
    db_iter_free(it);

    /* h keys are prefixes by themselves. */
    it = db_iter_new(db, &(struct db_iter_options){.view = view, .one_prefix = true});
    db_iter_seek(it, key_of(at, prefix));
    assert_int_equal(db_iter_valid(it), model->present[at] != 0);
    if (db_iter_valid(it)) {
        db_iter_next(it);
        assert_false(db_iter_valid(it));
    }
    db_iter_free(it);
}

static void write_some(struct db *db, struct model *model, struct rng *rng, uint32_t *number)
{
    struct db_batch *b = db_batch_new();
    uint64_t n = 1 + rng_below(rng, 6);
    for (uint64_t i = 0; i < n; i++) {
        uint8_t key[KEY_LEN], value[4];
        int k = (int)rng_below(rng, MODEL_KEYS);
        u32_be_put(value, ++*number);
        struct bytes parts[] = {bytes_of(key_of(k, key).data, 2), bytes_of(key + 2, KEY_LEN - 2)};
        struct bytes values[] = {bytes_of(value, 1), BYTES_NULL, bytes_of(value + 1, 3)};
        uint64_t what = rng_below(rng, 3);
        if (what == 0)
            db_batch_delete(b, key_of(k, key));
        else if (what == 1)
            db_batch_put(b, key_of(k, key), bytes_of(value, 4));
        else
            db_batch_putv(b, parts, 2, values, 3);
        model->present[k] = what == 0 ? 0 : *number;
    }
    assert_int_equal(db_batch_count(b), n);
    assert_int_equal(db_write(db, b), 0);
    db_batch_free(b);
}

static void test_random(void **state)
{
    struct fixture *f = *state;
    struct rng rng;
    rng_init(&rng, 11);
    struct model now = {0}, seen[VIEWS_MAX];
    struct db_view *views[VIEWS_MAX] = {0};
    uint32_t number = 0;
    for (int step = 0; step < STEPS; step++) {
        write_some(f->db, &now, &rng, &number);
        size_t v = (size_t)rng_below(&rng, VIEWS_MAX);
        if (rng_below(&rng, 10) == 0) {
            views[v] = views[v] ? db_view_free(f->db, views[v]) : db_view_new(f->db);
            seen[v] = now;
        }
        if (step % 50 == 0) {
            compare_all(f->db, NULL, &now);
            for (size_t i = 0; i < VIEWS_MAX; i++)
                if (views[i])
                    compare_all(f->db, views[i], &seen[i]);
        }
        compare_seeks(f->db, views[v], views[v] ? &seen[v] : &now, &rng);
        if (rng_below(&rng, 500) == 0)
            assert_int_equal(db_flush(f->db), 0);
        if (rng_below(&rng, 1000) == 0)
            assert_int_equal(db_compact(f->db, NULL, NULL), 0);
    }
    for (size_t i = 0; i < VIEWS_MAX; i++)
        db_view_free(f->db, views[i]);
}

/* Overwrites without a reader: db_mem sweeps, and nothing that counts may go. */
static void test_overwrites(void **state)
{
    struct fixture *f = *state;
    struct rng rng;
    rng_init(&rng, 12);
    struct model now = {0};
    uint32_t number = 0;
    for (int step = 0; step < 4 * STEPS; step++)
        write_some(f->db, &now, &rng, &number);
    compare_all(f->db, NULL, &now);
}

static void test_iterator_is_frozen(void **state)
{
    struct fixture *f = *state;
    struct rng rng;
    rng_init(&rng, 13);
    struct model now = {0};
    uint32_t number = 0;
    write_some(f->db, &now, &rng, &number);
    int n_before = 0, n_seen = 0;
    for (int i = 0; i < MODEL_KEYS; i++)
        n_before += now.present[i] != 0;
    struct db_iter *it = db_iter_new(f->db, &(struct db_iter_options){.upper = BYTES_LIT("i")});
    for (int i = 0; i < 20; i++)
        write_some(f->db, &now, &rng, &number);
    for (db_iter_seek(it, BYTES_LIT("h")); db_iter_valid(it); db_iter_next(it))
        n_seen++;
    assert_int_equal(n_seen, n_before);
    db_iter_free(it);
}

static void test_reopen(void **state)
{
    struct fixture *f = *state;
    struct rng rng;
    rng_init(&rng, 14);
    struct model now = {0};
    uint32_t number = 0;
    for (int round = 0; round < 4; round++) {
        for (int i = 0; i < 100; i++)
            write_some(f->db, &now, &rng, &number);
        assert_true(db_unflushed_bytes(f->db) > 0);
        assert_int_equal(db_flush(f->db), 0);
        f->db = db_close(f->db);
        f->db = test_db_open(f->dir);
        compare_all(f->db, NULL, &now);
    }
    assert_true(db_disk_bytes(f->db) > 0);
    assert_true(db_used_bytes(f->db) > 0);
    char *path = mem_printf("%s/second", f->dir);
    assert_int_equal(db_checkpoint(f->db, path), 0);
    write_some(f->db, &(struct model){0}, &rng, &number);
    struct db *copy = test_db_open(path);
    compare_all(copy, NULL, &now);
    db_close(copy);
    free(path);
}

/* ---- closed stores ---- */

static void number_put(struct db *db, uint32_t number)
{
    struct db_batch *b = db_batch_new();
    uint8_t value[4];
    u32_be_put(value, number);
    db_batch_put(b, BYTES_LIT("mnumber"), bytes_of(value, 4));
    assert_int_equal(db_write(db, b), 0);
    db_batch_free(b);
}

static uint32_t number_get(struct db *db)
{
    struct db_value value = {0};
    uint32_t number = 0;
    if (db_get(db, NULL, BYTES_LIT("mnumber"), &value) == 0)
        number = u32_be_get(value.bytes.data);
    db_value_release(&value);
    return number;
}

static void store_make(const char *path, uint32_t number)
{
    struct db *db = test_db_open(path);
    number_put(db, number);
    assert_int_equal(db_flush(db), 0);
    db_close(db);
}

static void store_is(const char *path, uint32_t number)
{
    struct db *db = test_db_open(path);
    assert_int_equal(number_get(db), number);
    db_close(db);
}

static void test_exchange(void **state)
{
    char *dir = test_dir_new(), *path = mem_printf("%s/db", dir),
         *next = mem_printf("%s/next", dir);
    store_make(next, 1);
    assert_int_equal(db_exchange(next, path), 0); /* with nothing */
    store_is(path, 1);
    store_make(next, 2);
    assert_int_equal(db_exchange(next, path), 0);
    store_is(path, 2);
    assert_int_equal(db_remove(next), 0);
    assert_int_equal(db_remove(next), 0);
    store_is(next, 0);
    assert_int_equal(db_remove(path), 0);
    store_is(path, 0);
    free(path);
    free(next);
    test_dir_remove(dir);
}

/* A checkpoint is a store, and so is a copy of its files. */
static void test_checkpoint_exchange(void **state)
{
    struct fixture *f = *state;
    char *dir = test_dir_new(), *path = mem_printf("%s/db", dir),
         *next = mem_printf("%s/next", dir);
    store_make(path, 1);
    number_put(f->db, 7);
    assert_int_equal(db_checkpoint(f->db, next), 0);
    number_put(f->db, 8);
    assert_int_equal(db_exchange(next, path), 0);
    store_is(path, 7);
    free(path);
    free(next);
    test_dir_remove(dir);
}

/* Scans in bulk end, other reads don't. */
static void test_interrupt(void **state)
{
    struct fixture *f = *state;
    number_put(f->db, 7);
    struct db_iter *bulk = db_iter_new(f->db, &(struct db_iter_options){.no_cache = true});
    struct db_iter *other = db_iter_new(f->db, &(struct db_iter_options){0});
    db_interrupt(f->db);
    db_iter_seek(bulk, BYTES_LIT("m"));
    db_iter_seek(other, BYTES_LIT("m"));
    assert_true(db_iter_valid(other));
    assert_int_equal(db_iter_error(other), 0);
    if (db_iter_valid(bulk))
        db_iter_next(bulk);
    assert_false(db_iter_valid(bulk));
    assert_int_equal(db_iter_error(bulk), -ECANCELED);
    db_iter_free(bulk);
    db_iter_free(other);
    assert_int_equal(db_compact(f->db, NULL, NULL), -ECANCELED);
    assert_int_equal(number_get(f->db), 7);
}

/* ---- RocksDB only ---- */

/* A crash between the two renames that make an exchange where one call can't. */
static void test_exchange_undone(void **state)
{
    char *dir = test_dir_new(), *path = mem_printf("%s/db", dir),
         *aside = mem_printf("%s/db.old", dir);
    store_make(aside, 1);
    store_is(path, 1);
    store_make(aside, 2); /* the exchange was done, only the old one not removed */
    store_is(path, 1);
    assert_int_not_equal(access(aside, F_OK), 0);
    free(path);
    free(aside);
    test_dir_remove(dir);
}

/* What lies where the old store would, and is none. */
static void test_exchange_unknown(void **state)
{
    char *dir = test_dir_new(), *path = mem_printf("%s/db", dir),
         *inner = mem_printf("%s/db.old/inner", dir), *error = NULL;
    struct db *db = NULL;

    store_make(path, 1);
    assert_int_equal(dir_make(inner), 0);
    assert_in_range(-db_open(&db, &(struct db_options){.path = path}, &error), 1, 4095);
    assert_null(db);
    assert_non_null(strstr(error, path));
    assert_non_null(strstr(error, "interrupted exchange"));
    free(error);
    free(inner);
    free(path);
    test_dir_remove(dir);
}

static void test_lock(void **state)
{
    struct fixture *f = *state;
    struct db *second = NULL;
    char *error = NULL;
    struct db_options options = {.path = f->dir};
    assert_int_equal(db_open(&second, &options, &error), -EWOULDBLOCK);
    assert_null(second);
    assert_non_null(strstr(error, "another process"));
    assert_non_null(strstr(error, f->dir));
    free(error);
}

/* Overwrites the middle of every table file. */
static void damage(const char *dir)
{
    DIR *d = opendir(dir);
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));) {
        if (!strstr(e->d_name, ".sst") && !strstr(e->d_name, "MANIFEST"))
            continue;
        char *path = mem_printf("%s/%s", dir, e->d_name);
        FILE *file = fopen(path, "r+b");
        assert_non_null(file);
        fseek(file, 20, SEEK_SET);
        fputs("damaged damaged damaged damaged", file);
        fclose(file);
        free(path);
    }
    closedir(d);
}

static void test_damaged(void **state)
{
    struct fixture *f = *state;
    struct rng rng;
    rng_init(&rng, 15);
    struct model now = {0};
    uint32_t number = 0;
    write_some(f->db, &now, &rng, &number);
    assert_int_equal(db_flush(f->db), 0);
    f->db = db_close(f->db);
    damage(f->dir);
    char *error = NULL;
    struct db_options options = {.path = f->dir, .prefix_len = schema_prefix_len};
    assert_int_equal(db_open(&f->db, &options, &error), DB_E_CORRUPT);
    assert_null(f->db);
    assert_non_null(error);
    free(error);
}

/* ---- crashes ---- */

enum { CRASH_ROUNDS = 12, CRASH_BATCHES = 400, CRASH_PADDING = 600 };

/* Batch i, always the same: two keys written, one deleted, and the number of the batch. */
static void crash_batch(struct db_batch *b, uint32_t i, struct model *model)
{
    uint8_t key[KEY_LEN], value[CRASH_PADDING];
    memset(value, (int)(i & 0xFF), sizeof(value));
    u32_be_put(value, i);
    int gone = (int)(i * 5 % MODEL_KEYS);
    db_batch_clear(b);
    for (uint32_t k = 0; k < 2; k++) {
        int at = (int)((i * 7 + k * 31) % MODEL_KEYS);
        db_batch_put(b, key_of(at, key), bytes_of(value, sizeof(value)));
        model->present[at] = i;
    }
    db_batch_delete(b, key_of(gone, key));
    model->present[gone] = 0;
    db_batch_put(b, BYTES_LIT("mnumber"), bytes_of(value, 4));
}

static struct db *crash_open(const char *dir)
{
    /* Small buffers: several are flushed in the background in each round. */
    struct db_options options = {
        .path = dir, .prefix_len = schema_prefix_len, .write_buffer_bytes = 64 << 10};
    struct db *db = NULL;
    char *error = NULL;
    check(db_open(&db, &options, &error) == 0);
    return db;
}

static uint32_t crash_number(struct db *db)
{
    struct db_value value = {0};
    uint32_t number = 0;
    if (db_get(db, NULL, BYTES_LIT("mnumber"), &value) == 0)
        number = u32_be_get(value.bytes.data);
    db_value_release(&value);
    return number;
}

/* Writes until it is killed; a byte into the pipe for each batch, and a flush now and then. */
_Noreturn static void crash_child(const char *dir, int fd)
{
    struct db *db = crash_open(dir);
    struct db_batch *b = db_batch_new();
    struct model model = {0};
    for (uint32_t i = crash_number(db) + 1;; i++) {
        crash_batch(b, i, &model);
        check(db_write(db, b) == 0);
        if (i % 97 == 0)
            check(db_flush(db) == 0);
        check(write(fd, "", 1) == 1);
    }
}

static void crash_round(const char *dir, int batches)
{
    int fds[2];
    char byte;
    assert_int_equal(pipe(fds), 0);
    pid_t child = fork();
    if (child == 0) {
        /* A program of its own: RocksDB's threads don't survive a fork. */
        dup2(fds[1], STDOUT_FILENO);
        execl("/proc/self/exe", "db_test", "crash", dir, (char *)NULL);
        _exit(1);
    }
    close(fds[1]);
    for (int i = 0; i < batches; i++)
        assert_int_equal(read(fds[0], &byte, 1), 1);
    kill(child, SIGKILL);
    assert_int_equal(waitpid(child, NULL, 0), child);
    close(fds[0]);
}

static void crash_compare(const char *dir, uint32_t *last)
{
    struct db *db = crash_open(dir);
    uint32_t number = crash_number(db);
    assert_true(number >= *last);
    struct model model = {0};
    struct db_batch *b = db_batch_new();
    for (uint32_t i = 1; i <= number; i++)
        crash_batch(b, i, &model);
    db_batch_free(b);
    for (int k = 0; k < MODEL_KEYS; k++) {
        uint8_t key[KEY_LEN];
        struct db_value value = {0};
        int r = db_get(db, NULL, key_of(k, key), &value);
        assert_int_equal(r, model.present[k] ? 0 : DB_E_NOT_FOUND);
        if (r == 0)
            assert_int_equal(u32_be_get(value.bytes.data), model.present[k]);
        db_value_release(&value);
    }
    db_close(db);
    *last = number;
}

/* After kill -9 the store is what it was behind some batch, which the batch itself names. */
static void test_crash(void **state)
{
    char *dir = test_dir_new();
    struct rng rng;
    rng_init(&rng, 16);
    uint32_t last = 0;
    for (int round = 0; round < CRASH_ROUNDS; round++) {
        crash_round(dir, 1 + (int)rng_below(&rng, CRASH_BATCHES));
        crash_compare(dir, &last);
    }
    assert_true(last > 0);
    test_dir_remove(dir);
}

static bool on_disk(void)
{
    char *dir = test_dir_new();
    char *file = mem_printf("%s/CURRENT", dir);
    db_close(test_db_open(dir));
    bool found = access(file, F_OK) == 0;
    test_dir_remove(dir);
    free(file);
    return found;
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "crash") == 0)
        crash_child(argv[2], STDOUT_FILENO);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_random, setup, teardown),
        cmocka_unit_test_setup_teardown(test_overwrites, setup, teardown),
        cmocka_unit_test_setup_teardown(test_iterator_is_frozen, setup, teardown),
        cmocka_unit_test_setup_teardown(test_reopen, setup, teardown),
        cmocka_unit_test(test_exchange),
        cmocka_unit_test_setup_teardown(test_checkpoint_exchange, setup, teardown),
        cmocka_unit_test_setup_teardown(test_interrupt, setup, teardown),
    };
    const struct CMUnitTest disk_tests[] = {
        cmocka_unit_test_setup_teardown(test_lock, setup, teardown),
        cmocka_unit_test(test_exchange_undone),
        cmocka_unit_test(test_exchange_unknown),
        cmocka_unit_test_setup_teardown(test_damaged, setup, teardown),
        cmocka_unit_test(test_crash),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (on_disk())
        failed += cmocka_run_group_tests(disk_tests, NULL, NULL);
    return failed;
}

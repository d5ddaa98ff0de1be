/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An exchange waits for whoever holds the store, keeps new ones out until it is done, and leaves
 * nothing of the old state; on the database in memory. How it is opened the linker lets us see.
 */
#include "server/store.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#include "base/clock.h"
#include "base/log.h"
#include "server/member_json.h"
#include "storage/db_mem.h"
#include "storage/test_dir.h"

enum { PATIENCE_MS = 30000 };

struct fixture {
    char *dir;
    char *path;
    char *next;
    struct store store;
};

static struct db_options opened; /* how a database was opened last */

int __real_db_open(struct db **ret, const struct db_options *options, char **ret_error);
int __wrap_db_open(struct db **ret, const struct db_options *options, char **ret_error);
int __wrap_db_open(struct db **ret, const struct db_options *options, char **ret_error)
{
    opened = *options;
    return __real_db_open(ret, options, ret_error);
}

static void put(struct db *db, struct bytes key, struct bytes value)
{
    struct db_batch *b = db_batch_new();

    db_batch_put(b, key, value);
    assert_int_equal(db_write(db, b), 0);
    db_batch_free(b);
}

/* A closed store with that applied index, and that member as a learner or not. */
static void make(const char *path, uint64_t index, uint64_t member_id, bool is_learner)
{
    struct db *db = test_db_open(path);
    struct member m = {.id = member_id, .is_learner = is_learner};
    struct buf key = BUF_NULL, value = BUF_NULL;

    schema_meta(&key, "applied");
    buf_append_u64_be(&value, index);
    buf_append_u64_be(&value, 7);
    put(db, buf_bytes(&key), buf_bytes(&value));
    buf_clear(&key);
    buf_clear(&value);
    schema_member(&key, member_id);
    member_json(&value, &m);
    put(db, buf_bytes(&key), buf_bytes(&value));
    buf_deinit(&key);
    buf_deinit(&value);
    assert_int_equal(db_flush(db), 0);
    db_close(db);
}

static int setup(void **state)
{
    struct fixture *f = mem_new(struct fixture);

    f->dir = test_dir_new();
    f->path = mem_printf("%s/db", f->dir);
    f->next = mem_printf("%s/next", f->dir);
    make(f->path, 10, 1, false);
    make(f->next, 20, 2, true);
    assert_int_equal(store_open(&f->store, &(struct store_options){.path = f->path}), 0);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    store_close(&f->store);
    db_mem_forget();
    test_dir_remove(f->dir);
    free(f->path);
    free(f->next);
    free(f);
    return 0;
}

static uint64_t applied(struct fixture *f)
{
    uint64_t index, term;

    assert_int_equal(store_applied(f->store.db, NULL, &index, &term), 0);
    assert_int_equal(term, 7);
    return index;
}

static void test_exchange(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(applied(f), 10);
    assert_true(members_find(f->store.members, 1, NULL));
    assert_int_equal(store_exchange(&f->store, f->next), 0);
    assert_int_equal(applied(f), 20);
    assert_false(members_find(f->store.members, 1, NULL));
    assert_true(members_find(f->store.members, 2, NULL));
    assert_int_equal(store_exchange(&f->store, f->next), 0); /* the old one is there now */
    assert_int_equal(applied(f), 10);
}

/* The database that an exchange brings is opened as the one before (etcd's lost its options when it
 * was opened again: 13701). */
static void test_options(void **state)
{
    struct fixture *f = *state;
    struct db_options first;

    store_close(&f->store);
    assert_int_equal(
        store_open(&f->store, &(struct store_options){.path = f->path, .cache_bytes = 5 << 20}), 0);
    first = opened;
    assert_string_equal(first.path, f->path);
    assert_int_equal(first.cache_bytes, 5 << 20);
    assert_ptr_equal(first.prefix_len, schema_prefix_len);
    opened = (struct db_options){0};
    assert_int_equal(store_exchange(&f->store, f->next), 0);
    assert_memory_equal(&opened, &first, sizeof(first));
}

static void test_missing(void **state)
{
    struct fixture *f = *state;
    char *nowhere = mem_printf("%s/nowhere", f->dir);

    assert_true(store_exchange(&f->store, nowhere) < 0);
    store_close(&f->store);
    assert_int_equal(store_open(&f->store, &(struct store_options){.path = f->path}), 0);
    assert_int_equal(applied(f), 10);
    free(nowhere);
}

static void test_conf(void **state)
{
    struct fixture *f = *state;
    struct raft_conf_state conf;

    assert_int_equal(store_conf(f->store.db, NULL, &conf), 0);
    assert_int_equal(conf.voters.len, 1);
    assert_int_equal(conf.voters.ids[0], 1);
    assert_int_equal(conf.learners.len, 0);
    raft_conf_state_clear(&conf);
    struct db_view *before = db_view_new(f->store.db);
    put(f->store.db, BYTES_LIT("cbad"), BYTES_LIT("{}"));
    assert_true(store_conf(f->store.db, NULL, &conf) < 0);
    assert_int_equal(store_conf(f->store.db, before, &conf), 0); /* a view sees no later record */
    raft_conf_state_clear(&conf);
    db_view_free(f->store.db, before);
    assert_int_equal(store_exchange(&f->store, f->next), 0);
    assert_int_equal(store_conf(f->store.db, NULL, &conf), 0);
    assert_int_equal(conf.learners.len, 1);
    raft_conf_state_clear(&conf);
}

/* ---- threads ---- */

struct exchanger {
    pthread_t thread;
    struct fixture *f;
    atomic_bool done;
};

static void *exchange(void *arg)
{
    struct exchanger *x = arg;

    assert_int_equal(store_exchange(&x->f->store, x->f->next), 0);
    atomic_store(&x->done, true);
    return NULL;
}

/* Nobody gets in as a reader any more: the exchange waits. */
static void wait_until_it_waits(pthread_rwlock_t *lock)
{
    uint64_t end_ms = clock_mono_ms() + PATIENCE_MS;

    while (pthread_rwlock_tryrdlock(lock) == 0) {
        pthread_rwlock_unlock(lock);
        assert_true(clock_mono_ms() < end_ms);
        sched_yield();
    }
}

static void held(struct fixture *f, void (*hold)(struct store *s), void (*release)(struct store *s),
                 pthread_rwlock_t *lock)
{
    struct exchanger x = {.f = f};

    hold(&f->store);
    assert_int_equal(pthread_create(&x.thread, NULL, exchange, &x), 0);
    wait_until_it_waits(lock);
    assert_false(atomic_load(&x.done));
    assert_int_equal(applied(f), 10); /* still all there */
    release(&f->store);
    hold(&f->store); /* behind it */
    assert_int_equal(applied(f), 20);
    release(&f->store);
    pthread_join(x.thread, NULL);
}

static void test_held(void **state)
{
    struct fixture *f = *state;

    held(f, store_hold, store_release, &f->store.readers);
}

static void test_held_by_job(void **state)
{
    struct fixture *f = *state;

    held(f, store_hold_job, store_release_job, &f->store.jobs);
}

/* While an exchange waits for a job, readers go on. */
static void test_job_and_readers(void **state)
{
    struct fixture *f = *state;
    struct exchanger x = {.f = f};

    store_hold_job(&f->store);
    assert_int_equal(pthread_create(&x.thread, NULL, exchange, &x), 0);
    wait_until_it_waits(&f->store.jobs);
    store_hold(&f->store);
    assert_int_equal(applied(f), 10);
    store_release(&f->store);
    store_release_job(&f->store);
    pthread_join(x.thread, NULL);
    assert_int_equal(applied(f), 20);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_exchange), T(test_options),     T(test_missing),         T(test_conf),
        T(test_held),     T(test_held_by_job), T(test_job_and_readers),
    };
    log_level_min = LOG_FATAL;
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * For tests: a table that lives in memory and in the database (members, alarms), the database under
 * it, and the batch that its changes go into. Define TABLE as the table's prefix (TABLE##_open,
 * TABLE##_close, struct TABLE) before the include.
 */
#pragma once

#include "base/mem.h"
#include "storage/test_dir.h"

#define TEST_TABLE_JOIN(a, b) a##b
#define TEST_TABLE_NAME(prefix, suffix) TEST_TABLE_JOIN(prefix, suffix)
#define TABLE_OPEN TEST_TABLE_NAME(TABLE, _open)
#define TABLE_CLOSE TEST_TABLE_NAME(TABLE, _close)

struct fixture {
    struct db *db;
    struct db_batch *batch;
    struct TABLE *table;
};

static inline int setup(void **state)
{
    struct fixture *f = mem_new(struct fixture);

    f->db = test_db_open("memory");
    f->batch = db_batch_new();
    assert_int_equal(TABLE_OPEN(&f->table, f->db), 0);
    *state = f;
    return 0;
}

static inline int teardown(void **state)
{
    struct fixture *f = *state;

    TABLE_CLOSE(f->table);
    db_batch_free(f->batch);
    db_close(f->db);
    free(f);
    return 0;
}

/* What was changed, as the next start finds it. */
static inline void reopen(struct fixture *f)
{
    assert_int_equal(db_write(f->db, f->batch), 0);
    db_batch_clear(f->batch);
    f->table = TABLE_CLOSE(f->table);
    assert_int_equal(TABLE_OPEN(&f->table, f->db), 0);
}

/* A record that can't be read keeps the table from opening. */
static inline void assert_damaged(struct fixture *f, struct bytes key, struct bytes value)
{
    struct TABLE *damaged = NULL;

    db_batch_put(f->batch, key, value);
    assert_int_equal(db_write(f->db, f->batch), 0);
    assert_int_equal(TABLE_OPEN(&damaged, f->db), -EBADMSG);
    assert_null(damaged);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

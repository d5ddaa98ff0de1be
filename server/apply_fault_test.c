/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The database fails in the middle of an apply turn: at each single read, step of an iterator and
 * write in turn (the linker wraps them), for one call or from that call on. The turn must end in an
 * error; what is in the database then is the state behind a whole entry, the one that its applied
 * index names; and nobody was told that something is done that is not there. (etcd ended a
 * transaction that had failed half way by committing it: 18799.)
 */
#include "server/test_box.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <errno.h>

#include "base/digest.h"
#include "storage/db_mem.h"

enum { ENTRIES = 7, CALLS_MAX = 1000 };

/* ---- the database ---- */

static struct {
    bool watched; /* an apply turn runs */
    bool stays;   /* all calls behind the first one that fails fail, too */
    unsigned calls;
    unsigned fail_at; /* 0: never */
    bool met;
    const struct db_iter *broken;
} faults;

static bool fails(void)
{
    bool now;

    if (!faults.watched)
        return false;
    now = ++faults.calls == faults.fail_at || (faults.met && faults.stays);
    faults.met = faults.met || now;
    return now;
}

int __real_db_get(struct db *db, const struct db_view *view, struct bytes key,
                  struct db_value *ret);
int __wrap_db_get(struct db *db, const struct db_view *view, struct bytes key,
                  struct db_value *ret);
int __wrap_db_get(struct db *db, const struct db_view *view, struct bytes key, struct db_value *ret)
{
    return fails() ? -EIO : __real_db_get(db, view, key, ret);
}

int __real_db_write(struct db *db, struct db_batch *b);
int __wrap_db_write(struct db *db, struct db_batch *b);
int __wrap_db_write(struct db *db, struct db_batch *b)
{
    return fails() ? -EIO : __real_db_write(db, b);
}

bool __real_db_iter_valid(const struct db_iter *it);
bool __wrap_db_iter_valid(const struct db_iter *it);
bool __wrap_db_iter_valid(const struct db_iter *it)
{
    if (it != faults.broken && !fails())
        return __real_db_iter_valid(it);
    faults.broken = it;
    return false;
}

int __real_db_iter_error(const struct db_iter *it);
int __wrap_db_iter_error(const struct db_iter *it);
int __wrap_db_iter_error(const struct db_iter *it)
{
    return it == faults.broken ? -EIO : __real_db_iter_error(it);
}

static uint32_t content(struct box *b)
{
    struct db_iter *it = db_iter_new(b->s->store.db, &(struct db_iter_options){0});
    uint32_t sum = 0;

    for (db_iter_seek(it, BYTES_NULL); db_iter_valid(it); db_iter_next(it)) {
        struct bytes key = db_iter_key(it), value = db_iter_value(it);
        sum = crc32c(sum, &key.len, sizeof(key.len));
        sum = crc32c(sum, key.data, key.len);
        sum = crc32c(sum, value.data, value.len);
    }
    assert_int_equal(db_iter_error(it), 0);
    db_iter_free(it);
    return sum;
}

/* ---- a member with some keys and a lease, and entries that read, delete, put and scan ---- */

static struct box *prepared(void)
{
    struct box *b = box_start();
    struct call c;

    call_grant(b, &c, 5, 60);
    assert_int_equal(call_run(b, &c), OUTCOME_OK);
    for (int i = 0; i < 6; i++) {
        char key[] = {(char)('a' + i), 0};
        call_put(b, &c, key, "1", i % 2 ? 5 : 0);
        assert_int_equal(call_run(b, &c), OUTCOME_OK);
    }
    return b;
}

static struct call *entries(struct box *b)
{
    struct call *c = mem_alloc(ENTRIES * sizeof(*c));

    call_put(b, &c[0], "a", "2", 5);
    call_delete(b, &c[1], "b", "d");
    call_txn(b, &c[2], "a", "z");
    call_grant(b, &c[3], 6, 60);
    call_put(b, &c[4], "new", "1", 6);
    call_revoke(b, &c[5], 5);
    call_delete(b, &c[6], "a", "z");
    return c;
}

static void entries_free(struct call *c)
{
    for (int i = 0; i < ENTRIES; i++)
        call_deinit(&c[i]);
    free(c);
}

static int run_turn(struct box *b)
{
    int r;

    assert_int_equal(node_turn(b->s->node, ++b->now_ms), 0);
    faults.watched = true;
    r = apply_turn(b->s->apply);
    faults.watched = false;
    faults.broken = NULL;
    return r;
}

/* ret: the content behind 0, 1, ... of the entries, each applied in a turn of its own. */
static uint64_t whole_entries(uint32_t ret[ENTRIES + 1])
{
    struct box *b = prepared();
    struct call *c = entries(b);
    uint64_t first = box_stored_applied(b).index;

    ret[0] = content(b);
    for (int i = 0; i < ENTRIES; i++) {
        server_submit(b->s, &c[i].request);
        box_run(b);
        assert_int_equal(c[i].outcome, OUTCOME_OK);
        assert_int_equal(box_stored_applied(b).index, first + 1 + (uint64_t)i);
        ret[i + 1] = content(b);
        assert_int_not_equal(ret[i + 1], ret[i]);
    }
    entries_free(c);
    box_free(b);
    return first;
}

/* Whether the fault was met. */
static bool fault_at(unsigned n, uint64_t first, const uint32_t *whole)
{
    struct box *b = prepared();
    struct call *c = entries(b);
    uint64_t done;
    bool met;

    for (int i = 0; i < ENTRIES; i++)
        server_submit(b->s, &c[i].request);
    faults.calls = 0;
    faults.met = false;
    faults.fail_at = n;
    int r = run_turn(b);
    met = faults.met;
    assert_int_equal(r, met ? -EIO : 0);
    done = box_stored_applied(b).index - first;
    assert_true(done <= ENTRIES && (done == ENTRIES) == !met);
    if (content(b) != whole[done])
        fail_msg("call %u: a part of entry %d is there", n, (int)done + 1);
    for (uint64_t i = 0; i < ENTRIES; i++)
        assert_int_equal(c[i].outcome, i < done ? (int)OUTCOME_OK : CALL_WAITS);
    box_free(b); /* who still waits is told that the member stops */
    entries_free(c);
    db_mem_forget();
    return met;
}

static void sweep(bool stays)
{
    uint32_t whole[ENTRIES + 1];
    uint64_t first = whole_entries(whole);
    unsigned n = 1;

    faults.stays = stays;
    while (fault_at(n, first, whole))
        assert_true(++n < CALLS_MAX);
    print_message("%u calls\n", n - 1);
    assert_true(n > 20);
}

static void test_one_call_fails(void **state)
{
    sweep(false);
}

static void test_all_calls_fail(void **state)
{
    sweep(true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_call_fails),
        cmocka_unit_test(test_all_calls_fail),
    };

    log_level_min = LOG_FATAL;
    return cmocka_run_group_tests(tests, NULL, NULL);
}

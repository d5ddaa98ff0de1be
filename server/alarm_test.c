/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Alarms: activate, deactivate, list, what is stored, and the two flags that the request path
 * looks at.
 */
#include "server/alarm.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <errno.h>
#include <inttypes.h>

#define TABLE alarms
#include "server/test_table.h"

#define ACTION(x) ETCDSERVERPB__ALARM_REQUEST__ALARM_ACTION__##x
#define TYPE(x) ETCDSERVERPB__ALARM_TYPE__##x

static const uint64_t member = 0x1e8d52ac5ed69329;

/* "member:type member:type" */
static void assert_answer(const struct buf *out, const char *expected)
{
    Etcdserverpb__AlarmResponse *r =
        etcdserverpb__alarm_response__unpack(NULL, out->len, out->data);
    struct buf text = BUF_NULL;

    assert_non_null(r);
    for (size_t i = 0; i < r->n_alarms; i++)
        buf_printf(&text, "%s%" PRIx64 ":%d", i > 0 ? " " : "", r->alarms[i]->memberid,
                   (int)r->alarms[i]->alarm);
    assert_string_equal(buf_cstr(&text), expected);
    buf_deinit(&text);
    etcdserverpb__alarm_response__free_unpacked(r, NULL);
}

static void apply(struct fixture *f, int action, uint64_t id, int type, const char *expected)
{
    Etcdserverpb__AlarmRequest q = ETCDSERVERPB__ALARM_REQUEST__INIT;
    struct buf out = BUF_NULL;

    q.action = (Etcdserverpb__AlarmRequest__AlarmAction)action;
    q.memberid = id;
    q.alarm = (Etcdserverpb__AlarmType)type;
    alarms_apply(f->table, f->batch, &q, expected ? &out : NULL);
    if (expected)
        assert_answer(&out, expected);
    buf_deinit(&out);
}

static void test_activate(void **state)
{
    struct fixture *f = *state;

    apply(f, ACTION(GET), 0, TYPE(NONE), "");
    apply(f, ACTION(ACTIVATE), 5, TYPE(NONE), "");
    assert_int_equal(db_batch_count(f->batch), 0);
    apply(f, ACTION(ACTIVATE), 5, TYPE(NOSPACE), "5:1");
    assert_int_equal(db_batch_count(f->batch), 1);
    apply(f, ACTION(ACTIVATE), 5, TYPE(NOSPACE), "5:1"); /* the one that is there */
    assert_int_equal(db_batch_count(f->batch), 1);
    apply(f, ACTION(ACTIVATE), 6, TYPE(NOSPACE), NULL); /* nobody waits */
    apply(f, ACTION(ACTIVATE), 5, TYPE(CORRUPT), "5:2");
    apply(f, ACTION(GET), 0, TYPE(NONE), "5:1 6:1 5:2");
    apply(f, ACTION(GET), 0, TYPE(NOSPACE), "5:1 6:1");
    apply(f, ACTION(GET), 5, TYPE(CORRUPT), "5:2");
    apply(f, 77, 5, TYPE(NOSPACE), ""); /* an action that nobody knows does nothing */
    apply(f, ACTION(GET), 0, TYPE(NONE), "5:1 6:1 5:2");
}

static void test_deactivate(void **state)
{
    struct fixture *f = *state;

    apply(f, ACTION(DEACTIVATE), 5, TYPE(NOSPACE), "");
    apply(f, ACTION(DEACTIVATE), 5, TYPE(NONE), "");
    assert_int_equal(db_batch_count(f->batch), 0);
    apply(f, ACTION(ACTIVATE), 5, TYPE(NOSPACE), "5:1");
    apply(f, ACTION(ACTIVATE), 6, TYPE(NOSPACE), "6:1");
    apply(f, ACTION(DEACTIVATE), 7, TYPE(NOSPACE), "");
    apply(f, ACTION(DEACTIVATE), 5, TYPE(CORRUPT), "");
    apply(f, ACTION(DEACTIVATE), 5, TYPE(NOSPACE), "5:1");
    apply(f, ACTION(GET), 0, TYPE(NONE), "6:1");
    reopen(f);
    apply(f, ACTION(GET), 0, TYPE(NONE), "6:1");
}

static void test_flags(void **state)
{
    struct fixture *f = *state;

    assert_true(!alarms_no_space(f->table) && !alarms_corrupt(f->table));
    apply(f, ACTION(ACTIVATE), 5, TYPE(NOSPACE), NULL);
    apply(f, ACTION(ACTIVATE), 6, TYPE(NOSPACE), NULL);
    assert_true(alarms_no_space(f->table) && !alarms_corrupt(f->table));
    apply(f, ACTION(DEACTIVATE), 5, TYPE(NOSPACE), NULL);
    assert_true(alarms_no_space(f->table));
    apply(f, ACTION(DEACTIVATE), 6, TYPE(NOSPACE), NULL);
    assert_false(alarms_no_space(f->table));
    apply(f, ACTION(ACTIVATE), 6, TYPE(CORRUPT), NULL);
    reopen(f);
    assert_true(!alarms_no_space(f->table) && alarms_corrupt(f->table));
}

static void test_stored_as_etcd(void **state)
{
    struct fixture *f = *state;
    struct db_value value = {0};

    apply(f, ACTION(ACTIVATE), member, TYPE(NOSPACE), NULL);
    assert_int_equal(db_write(f->db, f->batch), 0);
    assert_int_equal(
        db_get(f->db, NULL, BYTES_LIT("s\x08\xa9\xa6\xda\xf6\xc5\xd5\xd4\xc6\x1e\x10\x01"), &value),
        0);
    assert_int_equal(value.bytes.len, 0);
    db_value_release(&value);
}

static void test_describe(void **state)
{
    struct fixture *f = *state;
    struct buf out = BUF_NULL;

    apply(f, ACTION(ACTIVATE), 5, TYPE(NOSPACE), NULL);
    apply(f, ACTION(ACTIVATE), member, TYPE(CORRUPT), NULL);
    alarms_describe(f->table, 8, &out);
    Etcdserverpb__StatusResponse *r =
        etcdserverpb__status_response__unpack(NULL, out.len, out.data);
    assert_non_null(r);
    assert_int_equal(r->n_errors, 2);
    assert_string_equal(r->errors[0], "memberID:5 alarm:NOSPACE ");
    assert_string_equal(r->errors[1], "memberID:2201506693133013801 alarm:CORRUPT ");
    etcdserverpb__status_response__free_unpacked(r, NULL);
    buf_deinit(&out);
}

static void test_many(void **state)
{
    enum { FAR = 300, KEPT = 256 };
    struct fixture *f = *state;
    struct buf out = BUF_NULL;
    size_t n = 0;

    for (uint64_t id = 1; id <= FAR; id++)
        apply(f, ACTION(ACTIVATE), id, TYPE(NOSPACE), NULL);
    reopen(f);
    alarms_encode(f->table, TYPE(NONE), 2, &out);
    Etcdserverpb__AlarmResponse *r = etcdserverpb__alarm_response__unpack(NULL, out.len, out.data);
    n = r->n_alarms;
    etcdserverpb__alarm_response__free_unpacked(r, NULL);
    buf_deinit(&out);
    assert_int_equal(n, KEPT);
}

static void test_damaged_record(void **state)
{
    assert_damaged(*state, BYTES_LIT("s\x08"), BYTES_NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_activate), T(test_deactivate), T(test_flags),          T(test_stored_as_etcd),
        T(test_describe), T(test_many),       T(test_damaged_record),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

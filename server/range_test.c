/* SPDX-License-Identifier: Apache-2.0 */
/* Range, case by case: interval, limit, count, filters, sorting, keys only, revisions. */
#include "server/test_store.h"

#define ORDER(x) ETCDSERVERPB__RANGE_REQUEST__SORT_ORDER__##x
#define TARGET(x) ETCDSERVERPB__RANGE_REQUEST__SORT_TARGET__##x

/* The keys of an answer, in its order. */
static const char *keys_of(struct store *s, const char *answer)
{
    struct buf keys = BUF_NULL;
    const char *copy;

    for (const char *p = strchr(answer, ' '); p; p = strchr(p, ' ')) {
        size_t n = strcspn(++p, "@ ");
        if (p[n] == '@')
            buf_printf(&keys, "%s%.*s", keys.len > 0 ? " " : "", (int)n, p);
    }
    buf_append_u8(&keys, 0);
    copy = (const char *)arena_copy(&s->arena, buf_bytes(&keys)).data;
    buf_deinit(&keys);
    return copy;
}

/* Revisions 2 to 7: a has version 3, b 2, c 1. */
static void fill(struct store *s)
{
    put(s, "a", "1");
    put(s, "a", "2");
    put(s, "a", "3");
    put(s, "b", "2");
    put(s, "b", "1");
    put(s, "c", "0");
}

static void test_interval(void **state)
{
    struct store *s = *state;

    assert_string_equal(store_range(s, range_request(s, "a", "")), "{r1}");
    fill(s);
    assert_string_equal(store_range(s, range_request(s, "b", NULL)), "{r7} b@5/6/2=1 #1");
    assert_string_equal(store_range(s, range_request(s, "x", NULL)), "{r7}");
    assert_string_equal(store_range(s, range_request(s, "a", "c")), "{r7} a@2/4/3=3 b@5/6/2=1 #2");
    assert_string_equal(store_range(s, range_request(s, "b", "")), "{r7} b@5/6/2=1 c@7/7/1=0 #2");
    assert_string_equal(store_range(s, range_request(s, "b", "b")), "{r7}");
    assert_string_equal(store_range(s, range_request(s, "c", "a")), "{r7}");
    Etcdserverpb__RangeRequest *all = range_request(s, "", "");
    all->key = pb_zero();
    assert_string_equal(store_range(s, all), "{r7} a@2/4/3=3 b@5/6/2=1 c@7/7/1=0 #3");
}

static void test_limit(void **state)
{
    struct store *s = *state;
    Etcdserverpb__RangeRequest *q = range_request(s, "a", "");

    fill(s);
    q->limit = 1;
    assert_string_equal(store_range(s, q), "{r7} a@2/4/3=3 more #3");
    q->limit = 2;
    assert_string_equal(store_range(s, q), "{r7} a@2/4/3=3 b@5/6/2=1 more #3");
    const int64_t all[] = {3, 4, INT64_MAX - 1, INT64_MAX, 0, -1, INT64_MIN};
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        q->limit = all[i];
        assert_string_equal(store_range(s, q), "{r7} a@2/4/3=3 b@5/6/2=1 c@7/7/1=0 #3");
    }
}

static void test_count_only(void **state)
{
    struct store *s = *state;
    Etcdserverpb__RangeRequest *q = range_request(s, "a", "");

    fill(s);
    q->count_only = true;
    q->limit = 1;
    q->min_mod_revision = 7;
    q->sort_target = TARGET(VALUE);
    q->sort_order = ORDER(DESCEND);
    q->keys_only = true;
    assert_string_equal(store_range(s, q), "{r7} #3");
}

/* NONE with another target than KEY: limit + 1 keys in key order, then sorted, then cut. */
static void test_sort_none_limits_first(void **state)
{
    struct store *s = *state;
    Etcdserverpb__RangeRequest *q = range_request(s, "a", "");

    fill(s);
    q->limit = 1;
    q->sort_target = TARGET(VERSION);
    assert_string_equal(store_range(s, q), "{r7} b@5/6/2=1 more #3");
    q->sort_order = ORDER(ASCEND);
    assert_string_equal(store_range(s, q), "{r7} c@7/7/1=0 more #3");
    q->sort_order = ORDER(DESCEND);
    assert_string_equal(store_range(s, q), "{r7} a@2/4/3=3 more #3");
}

static void test_sort_targets(void **state)
{
    struct store *s = *state;
    Etcdserverpb__RangeRequest *q = range_request(s, "a", "");
    static const struct {
        Etcdserverpb__RangeRequest__SortTarget target;
        const char *up, *down;
    } cases[] = {
        {TARGET(KEY), "a b c", "c b a"},    {TARGET(VERSION), "c b a", "a b c"},
        {TARGET(CREATE), "a b c", "c b a"}, {TARGET(MOD), "a b c", "c b a"},
        {TARGET(VALUE), "c b a", "a b c"},
    };

    fill(s);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        for (int down = 0; down < 2; down++) {
            q->sort_target = cases[i].target;
            q->sort_order = down ? ORDER(DESCEND) : ORDER(ASCEND);
            assert_string_equal(keys_of(s, store_range(s, q)), down ? cases[i].down : cases[i].up);
        }
    }
}

/* 30 equal or nearly equal sort keys: the order is that of Go's sort. */
static void test_sort_ties(void **state)
{
    struct store *s = *state;
    Etcdserverpb__RangeRequest *q = range_request(s, "s", "t");
    static const char expected[] =
        "s07 s27 s02 s22 s17 s12 s14 s19 s29 s09 s24 s04 s01 s11 s26 s06 "
        "s21 s16 s03 s18 s23 s13 s28 s08 s20 s15 s00 s25 s05 s10";

    for (int i = 0; i < 30; i++) {
        char *key = (char *)arena_alloc(&s->arena, 4);
        snprintf(key, 4, "s%02d", i);
        for (int v = 0; v < 1 + 7 * i % 5; v++)
            put(s, key, "");
    }
    q->sort_target = TARGET(VERSION);
    q->sort_order = ORDER(DESCEND);
    assert_string_equal(keys_of(s, store_range(s, q)), expected);
}

static void test_filters(void **state)
{
    struct store *s = *state;
    Etcdserverpb__RangeRequest *q = range_request(s, "a", "");

    fill(s);
    q->min_mod_revision = 6; /* inclusive; the count is of all */
    assert_string_equal(store_range(s, q), "{r7} b@5/6/2=1 c@7/7/1=0 #3");
    q->limit = 1; /* after the filter */
    assert_string_equal(store_range(s, q), "{r7} b@5/6/2=1 more #3");
    q->max_mod_revision = 6;
    assert_string_equal(store_range(s, q), "{r7} b@5/6/2=1 #3");
    q->min_mod_revision = q->max_mod_revision = q->limit = 0;
    q->max_create_revision = 5;
    assert_string_equal(store_range(s, q), "{r7} a@2/4/3=3 b@5/6/2=1 #3");
    q->min_create_revision = 5;
    assert_string_equal(store_range(s, q), "{r7} b@5/6/2=1 #3");
    q->min_create_revision = 0;
    q->max_create_revision = -1; /* negative bounds are active */
    assert_string_equal(store_range(s, q), "{r7} #3");
}

static void test_keys_only(void **state)
{
    struct store *s = *state;
    Etcdserverpb__RangeRequest *q = range_request(s, "k", NULL);
    Etcdserverpb__PutRequest *leased = put_request(s, "k", "v");

    store_grant(s, 5);
    leased->lease = 5;
    assert_string_equal(store_put(s, leased), "{r2 11/22/33}");
    assert_string_equal(store_range(s, q), "{r2} k@2/2/1=v~5 #1");
    q->keys_only = true;
    assert_string_equal(store_range(s, q), "{r2} k@2/2/1= #1"); /* the lease is dropped too */
    q->sort_target = TARGET(MOD);
    assert_string_equal(store_range(s, q), "{r2} k@2/2/1= #1");
    q->sort_target = TARGET(VALUE); /* but not here */
    assert_string_equal(store_range(s, q), "{r2} k@2/2/1=~5 #1");
    q->range_end = pb_zero();
    assert_string_equal(store_range(s, q), "{r2} k@2/2/1=~5 #1");
    q->sort_target = TARGET(KEY);
    assert_string_equal(store_range(s, q), "{r2} k@2/2/1= #1");
    q->revision = 2;
    put(s, "k", "w");
    assert_string_equal(store_range(s, q), "{r3} k@2/2/1= #1");
}

/* Sorting by VALUE looks at the values also when they are not sent. */
static void test_keys_only_by_value(void **state)
{
    struct store *s = *state;
    Etcdserverpb__RangeRequest *q = range_request(s, "a", "");

    fill(s);
    q->keys_only = true;
    q->sort_target = TARGET(VALUE);
    q->sort_order = ORDER(ASCEND);
    assert_string_equal(store_range(s, q), "{r7} c@7/7/1= b@5/6/2= a@2/4/3= #3");
}

static void test_revisions(void **state)
{
    struct store *s = *state;
    Etcdserverpb__RangeRequest *q = range_request(s, "a", "");
    struct buf out = BUF_NULL;

    fill(s);
    q->revision = 5;
    assert_string_equal(store_range(s, q), "{r7} a@2/4/3=3 b@5/5/1=2 #2");
    const int64_t current[] = {0, -1, INT64_MIN, 7};
    for (size_t i = 0; i < 4; i++) {
        q->revision = current[i];
        assert_string_equal(store_range(s, q), "{r7} a@2/4/3=3 b@5/6/2=1 c@7/7/1=0 #3");
    }
    q->revision = 8;
    assert_int_equal(store_read(s, q, &out), MVCC_E_FUTURE);
    store_compact(s, 5);
    q->revision = 5;
    assert_string_equal(store_range(s, q), "{r7} a@2/4/3=3 b@5/5/1=2 #2");
    q->revision = 4;
    assert_int_equal(store_read(s, q, &out), MVCC_E_COMPACTED);
    q->revision = -3; /* still "now" outside a transaction */
    assert_string_equal(store_range(s, q), "{r7} a@2/4/3=3 b@5/6/2=1 c@7/7/1=0 #3");
    assert_int_equal(out.len, 0);
    buf_deinit(&out);
}

#define T(f) cmocka_unit_test_setup_teardown(f, store_setup, store_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_interval),     T(test_limit),
        T(test_count_only),   T(test_sort_none_limits_first),
        T(test_sort_targets), T(test_sort_ties),
        T(test_filters),      T(test_keys_only),
        T(test_revisions),    T(test_keys_only_by_value),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

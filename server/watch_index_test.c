/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The index of watchers against a list that is searched from end to end: random interests come and
 * go, and every key finds the same sets. Also that the tree stays low when they come in order.
 */
#include "server/watch_index.h"

#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <stdio.h>

#include "base/mem.h"
#include "base/rng.h"

enum { SEED = 11, STEPS = 4000, SETS_MAX = 300, ORDERED = 100000, HEIGHT_MAX = 24 };

struct model {
    struct watch_index index;
    struct rng rng;
    struct watch_set *sets[SETS_MAX];
    size_t n;
    struct bytes key; /* being looked for */
    enum schema_kind kind;
    size_t found;
};

static const char *random_key(struct model *m, char out[4])
{
    size_t len = 1 + (size_t)rng_below(&m->rng, 3);

    for (size_t i = 0; i < len; i++)
        out[i] = (char)('a' + rng_below(&m->rng, 4));
    out[len] = '\0';
    return out;
}

static struct watch_interest *random_interest(struct model *m)
{
    char key[4], end[4];
    struct interval interval = {INTERVAL_EMPTY, BYTES_NULL, BYTES_NULL};

    while (interval.kind == INTERVAL_EMPTY) {
        const char *last = rng_below(&m->rng, 3) ? random_key(m, end) : "";
        struct bytes range_end = rng_below(&m->rng, 6) ? bytes_str(last) : bytes_of("", 1);
        interval = interval_parse(bytes_str(random_key(m, key)), range_end);
    }
    return watch_interest_new(&interval, (enum watch_flags)rng_below(&m->rng, 8));
}

static void add(struct model *m)
{
    struct watch_interest *interest = random_interest(m);
    size_t before = m->index.n_sets;
    struct watch_set *set = watch_index_get(&m->index, interest);
    bool known = false;

    for (size_t i = 0; i < m->n; i++)
        known |= m->sets[i] == set;
    assert_int_equal(m->index.n_sets, before + !known);
    assert_int_equal(set->interest->flags, interest->flags);
    assert_true(bytes_equal(set->interest->interval.key, interest->interval.key));
    assert_true(bytes_equal(set->interest->interval.end, interest->interval.end));
    if (!known)
        m->sets[m->n++] = set;
    watch_interest_unref(interest);
}

static void remove_one(struct model *m)
{
    size_t at = (size_t)rng_below(&m->rng, m->n);

    watch_index_remove(&m->index, m->sets[at]);
    m->sets[at] = m->sets[--m->n];
}

static void visit(void *arg, struct watch_set *set)
{
    struct model *m = arg;

    assert_true(interval_contains(&set->interest->interval, m->key));
    assert_true(watch_interest_wants(set->interest, m->kind));
    assert_false(set->touched); /* once each */
    set->touched = true;
    m->found++;
}

static void look(struct model *m)
{
    char key[4];
    size_t expected = 0;

    m->key = bytes_str(random_key(m, key));
    m->kind = (enum schema_kind)rng_below(&m->rng, 3);
    m->found = 0;
    watch_index_match(&m->index, m->key, m->kind, visit, m);
    for (size_t i = 0; i < m->n; i++) {
        expected += interval_contains(&m->sets[i]->interest->interval, m->key) &&
                    watch_interest_wants(m->sets[i]->interest, m->kind);
        m->sets[i]->touched = false;
    }
    assert_int_equal(m->found, expected);
}

static void test_random(void **state)
{
    struct model m = {0};

    rng_init(&m.rng, SEED);
    for (int i = 0; i < STEPS; i++) {
        if (m.n > 0 && (m.n == SETS_MAX || rng_below(&m.rng, 2) == 0))
            remove_one(&m);
        else
            add(&m);
        if (i % 1000 < 300 && m.n < SETS_MAX) /* grows, then keeps its size */
            add(&m);
        look(&m);
    }
    assert_true(m.n > 50);
    struct watch_set **sets = watch_index_list(&m.index);
    for (size_t i = 0, n = m.index.n_sets; i < n; i++)
        watch_index_remove(&m.index, sets[i]);
    free(sets);
    watch_index_deinit(&m.index);
}

static void test_in_order(void **state)
{
    struct watch_index x = {0};
    char key[16], end[16];

    for (int i = 0; i < ORDERED; i++) {
        snprintf(key, sizeof(key), "%08d", i);
        snprintf(end, sizeof(end), "%08d/", i);
        struct interval interval = interval_parse(bytes_str(key), bytes_str(end));
        struct watch_interest *interest = watch_interest_new(&interval, 0);
        watch_index_get(&x, interest);
        watch_interest_unref(interest);
    }
    assert_in_range(x.ranges->height, 17, HEIGHT_MAX);
    while (x.ranges)
        watch_index_remove(&x, x.ranges);
    watch_index_deinit(&x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random),
        cmocka_unit_test(test_in_order),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

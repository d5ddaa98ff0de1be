/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The index of watchers (see watch_index.h). The tree's recursion is as deep as it is high: an AVL
 * tree of 2^32 nodes has at most HEIGHT_MAX levels.
 */
#include "server/watch_index.h"

#include "base/check.h"
#include "base/mem.h"

enum { HEIGHT_MAX = 46 };

/* ---- interests ---- */

struct watch_interest *watch_interest_new(const struct interval *interval, enum watch_flags flags)
{
    size_t key_len = interval->key.len;
    size_t end_len = interval->kind == INTERVAL_RANGE ? interval->end.len : 0;
    struct watch_interest *i = mem_alloc_raw(sizeof(*i) + key_len + end_len);

    check(interval->kind != INTERVAL_EMPTY && key_len > 0);
    memcpy(i->bytes, interval->key.data, key_len);
    if (end_len > 0)
        memcpy(i->bytes + key_len, interval->end.data, end_len);
    i->refs = 1;
    i->flags = flags;
    i->interval = (struct interval){interval->kind, bytes_of(i->bytes, key_len),
                                    bytes_of(i->bytes + key_len, end_len)};
    return i;
}

struct watch_interest *watch_interest_ref(struct watch_interest *i)
{
    i->refs++;
    return i;
}

struct watch_interest *watch_interest_unref(struct watch_interest *i)
{
    if (i && --i->refs == 0)
        free(i);
    return NULL;
}

bool watch_interest_wants(const struct watch_interest *i, enum schema_kind kind)
{
    return !(i->flags & (kind == SCHEMA_DELETE ? WATCH_NO_DELETE : WATCH_NO_PUT));
}

/* Open ends are the greatest. */
static int compare_ends(const struct interval *a, const struct interval *b)
{
    if (a->kind != b->kind)
        return a->kind == INTERVAL_FROM ? 1 : -1;
    return a->kind == INTERVAL_FROM ? 0 : bytes_compare(a->end, b->end);
}

static int compare_interests(const struct watch_interest *a, const struct watch_interest *b)
{
    int r = bytes_compare(a->interval.key, b->interval.key);

    if (r == 0)
        r = compare_ends(&a->interval, &b->interval);
    return r != 0 ? r : (int)a->flags - (int)b->flags;
}

/* ---- the tree ---- */

static int height(const struct watch_set *n)
{
    return n ? n->height : 0;
}

static void update(struct watch_set *n)
{
    int l = height(n->left), r = height(n->right);

    n->height = 1 + (l > r ? l : r);
    check(n->height <= HEIGHT_MAX);
    n->greatest = n;
    for (int side = 0; side < 2; side++) {
        struct watch_set *child = side ? n->right : n->left;
        if (child && compare_ends(&child->greatest->interest->interval,
                                  &n->greatest->interest->interval) > 0)
            n->greatest = child->greatest;
    }
}

static struct watch_set *rotate_right(struct watch_set *n)
{
    struct watch_set *top = n->left;

    n->left = top->right;
    top->right = n;
    update(n);
    update(top);
    return top;
}

static struct watch_set *rotate_left(struct watch_set *n)
{
    struct watch_set *top = n->right;

    n->right = top->left;
    top->left = n;
    update(n);
    update(top);
    return top;
}

static struct watch_set *balance(struct watch_set *n)
{
    int tilt = height(n->left) - height(n->right);

    if (tilt > 1) {
        if (height(n->left->left) < height(n->left->right))
            n->left = rotate_left(n->left);
        return rotate_right(n);
    }
    if (tilt < -1) {
        if (height(n->right->right) < height(n->right->left))
            n->right = rotate_right(n->right);
        return rotate_left(n);
    }
    update(n);
    return n;
}

static struct watch_set *tree_insert(struct watch_set *n, struct watch_set *set)
{
    if (!n) {
        update(set);
        return set;
    }
    if (compare_interests(set->interest, n->interest) < 0)
        n->left = tree_insert(n->left, set);
    else
        n->right = tree_insert(n->right, set);
    return balance(n);
}

/* Takes the least node out. */
static struct watch_set *tree_take_least(struct watch_set *n, struct watch_set **ret)
{
    if (!n->left) {
        *ret = n;
        return n->right;
    }
    n->left = tree_take_least(n->left, ret);
    return balance(n);
}

static struct watch_set *tree_remove(struct watch_set *n, const struct watch_set *set)
{
    struct watch_set *least, *rest;
    int order;

    check(n);
    order = compare_interests(set->interest, n->interest);
    if (order < 0) {
        n->left = tree_remove(n->left, set);
        return balance(n);
    }
    if (order > 0) {
        n->right = tree_remove(n->right, set);
        return balance(n);
    }
    check(n == set);
    if (!n->right)
        return n->left;
    rest = tree_take_least(n->right, &least);
    least->left = n->left;
    least->right = rest;
    return balance(least);
}

static struct watch_set *tree_find(struct watch_set *n, const struct watch_interest *interest)
{
    int order;

    while (n && (order = compare_interests(interest, n->interest)) != 0)
        n = order < 0 ? n->left : n->right;
    return n;
}

struct match {
    struct bytes key;
    enum schema_kind kind;
    void (*visit)(void *arg, struct watch_set *set);
    void *arg;
};

/* What ends at or before the key, or begins behind it, is passed over with all below it. */
static void tree_match(struct watch_set *n, const struct match *m)
{
    const struct interval *greatest;

    if (!n)
        return;
    greatest = &n->greatest->interest->interval;
    if (greatest->kind == INTERVAL_RANGE && bytes_compare(greatest->end, m->key) <= 0)
        return;
    tree_match(n->left, m);
    if (bytes_compare(n->interest->interval.key, m->key) > 0)
        return;
    if (interval_contains(&n->interest->interval, m->key) &&
        watch_interest_wants(n->interest, m->kind))
        m->visit(m->arg, n);
    tree_match(n->right, m);
}

/* ---- keys ---- */

static struct watch_set *point_find(struct watch_set *first, const struct watch_interest *interest)
{
    while (first && first->interest->flags != interest->flags)
        first = first->same_key;
    return first;
}

/* The map borrows its key from the first set of the chain. */
static void point_insert(struct watch_index *x, struct watch_set *set)
{
    struct watch_set *first = map_bytes_get(&x->points, set->interest->interval.key);

    if (first) {
        set->same_key = first->same_key;
        first->same_key = set;
    } else {
        map_bytes_put(&x->points, set->interest->interval.key, set);
    }
}

static void point_remove(struct watch_index *x, struct watch_set *set)
{
    struct watch_set *p = map_bytes_remove(&x->points, set->interest->interval.key);
    struct watch_set *first = p;

    if (p == set) {
        first = set->same_key;
    } else {
        while (p->same_key != set)
            p = p->same_key;
        p->same_key = set->same_key;
    }
    if (first)
        map_bytes_put(&x->points, first->interest->interval.key, first);
}

/* ---- the index ---- */

static bool is_point(const struct watch_interest *interest)
{
    return interest->interval.kind == INTERVAL_POINT;
}

void watch_index_deinit(struct watch_index *x)
{
    check(x->n_sets == 0 && !x->ranges);
    map_bytes_deinit(&x->points);
}

struct watch_set *watch_index_get(struct watch_index *x, struct watch_interest *interest)
{
    struct watch_set *set =
        is_point(interest) ? point_find(map_bytes_get(&x->points, interest->interval.key), interest)
                           : tree_find(x->ranges, interest);

    if (set)
        return set;
    set = mem_new(struct watch_set);
    set->interest = watch_interest_ref(interest);
    list_init(&set->watchers);
    x->n_sets++;
    if (is_point(interest))
        point_insert(x, set);
    else
        x->ranges = tree_insert(x->ranges, set);
    return set;
}

void watch_index_remove(struct watch_index *x, struct watch_set *set)
{
    check(list_empty(&set->watchers) && !set->touched);
    x->n_sets--;
    if (is_point(set->interest))
        point_remove(x, set);
    else
        x->ranges = tree_remove(x->ranges, set);
    watch_interest_unref(set->interest);
    free(set);
}

void watch_index_match(const struct watch_index *x, struct bytes key, enum schema_kind kind,
                       void (*visit)(void *arg, struct watch_set *set), void *arg)
{
    const struct match m = {key, kind, visit, arg};

    for (struct watch_set *s = map_bytes_get(&x->points, key); s; s = s->same_key)
        if (watch_interest_wants(s->interest, kind))
            visit(arg, s);
    tree_match(x->ranges, &m);
}

static void list_tree(struct watch_set *n, struct watch_set ***next)
{
    if (!n)
        return;
    list_tree(n->left, next);
    *(*next)++ = n;
    list_tree(n->right, next);
}

struct watch_set **watch_index_list(const struct watch_index *x)
{
    struct watch_set **sets = mem_alloc_raw((x->n_sets + 1) * sizeof(struct watch_set *));
    struct watch_set **next = sets, *s;
    size_t at = 0;

    while ((s = map_bytes_next(&x->points, &at, NULL)))
        for (; s; s = s->same_key)
            *next++ = s;
    list_tree(x->ranges, &next);
    check((size_t)(next - sets) == x->n_sets);
    return sets;
}

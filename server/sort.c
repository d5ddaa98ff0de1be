/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The order in which etcd returns equal sort keys is the order in which Go's sort.Sort leaves them
 * (Go 1.19 and later: pattern-defeating quicksort, after Orson Peters). It is deterministic, so it
 * can be reproduced: every comparison and exchange below is where the algorithm has it, and none
 * may
 * be "improved".
 *
 *   up to 12 elements    insertion sort (stable)
 *   too many bad pivots  heap sort
 *   else                 pivot by median of three (ninther from 50 on), scrambled after an
 *                        unbalanced split, repaired when nearly sorted
 *
 * Thread: any; no state.
 */
#include "server/sort.h"

#include <stdint.h>

enum {
    INSERTION_MAX = 12,
    NINTHER_MIN = 50,
    SHIFT_MIN = 50,
    REPAIRS_MAX = 5,
    SWAPS_DECREASING = 12
};
enum hint { HINT_UNKNOWN, HINT_INCREASING, HINT_DECREASING };

struct sort {
    const void **items;
    sort_less_fn less;
};

static bool less(const struct sort *s, size_t a, size_t b)
{
    return s->less(s->items[a], s->items[b]);
}

static void swap(const struct sort *s, size_t a, size_t b)
{
    const void *t = s->items[a];
    s->items[a] = s->items[b];
    s->items[b] = t;
}

static void insertion_sort(const struct sort *s, size_t a, size_t b)
{
    for (size_t i = a + 1; i < b; i++)
        for (size_t j = i; j > a && less(s, j, j - 1); j--)
            swap(s, j, j - 1);
}

static void sift_down(const struct sort *s, size_t root, size_t end, size_t first)
{
    for (;;) {
        size_t child = 2 * root + 1;
        if (child >= end)
            return;
        if (child + 1 < end && less(s, first + child, first + child + 1))
            child++;
        if (!less(s, first + root, first + child))
            return;
        swap(s, first + root, first + child);
        root = child;
    }
}

static void heap_sort(const struct sort *s, size_t a, size_t b)
{
    size_t n = b - a;

    for (size_t i = (n - 1) / 2 + 1; i-- > 0;)
        sift_down(s, i, n, a);
    for (size_t i = n; i-- > 0;) {
        swap(s, a, a + i);
        sift_down(s, 0, i, a);
    }
}

static size_t bit_length(size_t n)
{
    return n == 0 ? 0 : 64 - (size_t)__builtin_clzll(n);
}

static void scramble(const struct sort *s, size_t a, size_t b)
{
    size_t n = b - a;
    size_t mask = ((size_t)1 << bit_length(n)) - 1;
    size_t middle = a + n / 4 * 2;
    uint64_t x = n;

    if (n < 8)
        return;
    for (size_t i = middle - 1; i <= middle + 1; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        size_t other = (size_t)x & mask;
        if (other >= n)
            other -= n;
        swap(s, i, a + other);
    }
}

static void order(const struct sort *s, size_t *a, size_t *b, unsigned *swaps)
{
    if (less(s, *b, *a)) {
        size_t t = *a;
        *a = *b;
        *b = t;
        (*swaps)++;
    }
}

static size_t median(const struct sort *s, size_t a, size_t b, size_t c, unsigned *swaps)
{
    order(s, &a, &b, swaps);
    order(s, &b, &c, swaps);
    order(s, &a, &b, swaps);
    return b;
}

static size_t choose_pivot(const struct sort *s, size_t a, size_t b, enum hint *ret_hint)
{
    size_t n = b - a;
    size_t i = a + n / 4, j = a + n / 4 * 2, k = a + n / 4 * 3;
    unsigned swaps = 0;

    if (n >= NINTHER_MIN) {
        i = median(s, i - 1, i, i + 1, &swaps);
        j = median(s, j - 1, j, j + 1, &swaps);
        k = median(s, k - 1, k, k + 1, &swaps);
    }
    if (n >= 8)
        j = median(s, i, j, k, &swaps);
    *ret_hint = swaps == 0                  ? HINT_INCREASING
                : swaps == SWAPS_DECREASING ? HINT_DECREASING
                                            : HINT_UNKNOWN;
    return j;
}

static void reverse(const struct sort *s, size_t a, size_t b)
{
    for (size_t i = a, j = b - 1; i < j; i++, j--)
        swap(s, i, j);
}

/* Few exchanges may be all that is missing. True: the range is sorted now. */
static bool repair(const struct sort *s, size_t a, size_t b)
{
    size_t i = a + 1;

    for (int round = 0; round < REPAIRS_MAX; round++) {
        while (i < b && !less(s, i, i - 1))
            i++;
        if (i == b)
            return true;
        if (b - a < SHIFT_MIN)
            return false;
        swap(s, i, i - 1);
        if (i - a >= 2)
            for (size_t j = i - 1; j >= 1 && less(s, j, j - 1); j--)
                swap(s, j, j - 1);
        if (b - i >= 2)
            for (size_t j = i + 1; j < b && less(s, j, j - 1); j++)
                swap(s, j, j - 1);
    }
    return false;
}

/* Elements equal to the pivot go left; returns the first that is greater. */
static size_t partition_equal(const struct sort *s, size_t a, size_t b, size_t pivot)
{
    swap(s, a, pivot);
    size_t i = a + 1, j = b - 1;

    for (;;) {
        while (i <= j && !less(s, a, i))
            i++;
        while (i <= j && less(s, a, j))
            j--;
        if (i > j)
            return i;
        swap(s, i++, j--);
    }
}

static size_t partition(const struct sort *s, size_t a, size_t b, size_t pivot, bool *ret_already)
{
    bool already = true;

    swap(s, a, pivot);
    size_t i = a + 1, j = b - 1;
    for (;; already = false) {
        while (i <= j && less(s, i, a))
            i++;
        while (i <= j && !less(s, j, a))
            j--;
        if (i > j)
            break;
        swap(s, i++, j--);
    }
    swap(s, j, a);
    *ret_already = already;
    return j;
}

static void quick_sort(const struct sort *s, size_t a, size_t b, size_t budget)
{
    bool balanced = true, partitioned = true;

    for (;;) {
        size_t n = b - a;
        enum hint hint;

        if (n <= INSERTION_MAX) {
            insertion_sort(s, a, b);
            return;
        }
        if (budget == 0) {
            heap_sort(s, a, b);
            return;
        }
        if (!balanced) {
            scramble(s, a, b);
            budget--;
        }
        size_t pivot = choose_pivot(s, a, b, &hint);
        if (hint == HINT_DECREASING) {
            reverse(s, a, b);
            pivot = (b - 1) - (pivot - a);
            hint = HINT_INCREASING;
        }
        if (balanced && partitioned && hint == HINT_INCREASING && repair(s, a, b))
            return;
        if (a > 0 && !less(s, a - 1, pivot)) {
            a = partition_equal(s, a, b, pivot);
            continue;
        }
        size_t middle = partition(s, a, b, pivot, &partitioned);
        size_t left = middle - a, right = b - middle;
        if (left < right) {
            balanced = left >= n / 8;
            quick_sort(s, a, middle, budget);
            a = middle + 1;
        } else {
            balanced = right >= n / 8;
            quick_sort(s, middle + 1, b, budget);
            b = middle;
        }
    }
}

void go_sort(const void **items, size_t n, sort_less_fn less_fn)
{
    struct sort s = {items, less_fn};

    quick_sort(&s, 0, n, bit_length(n));
}

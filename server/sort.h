/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Go's sort.Sort (pattern-defeating quicksort), step for step. Ties among equal sort keys above 12
 * elements come out in an order that only this algorithm gives, and clients of etcd see it; so it
 * is part of the contract.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

typedef bool (*sort_less_fn)(const void *a, const void *b);

/* Sorts n pointers. Not stable above 12 elements. */
void go_sort(const void **items, size_t n, sort_less_fn less);

/* SPDX-License-Identifier: Apache-2.0 */
/* What the raft log's tests on the faulty disk share. */
#pragma once

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/mem.h"
#include "storage/file_fault.h"
#include "storage/wal_internal.h"

enum { SEGMENT = 4096, CLUSTER = 0xc1, MEMBER = 0x3e };

#define DIR "wal"

struct wal_options test_options(void);
struct blob *test_payload(uint64_t index, uint64_t term, size_t len);
size_t test_payload_len(uint64_t index);
int test_append_sized(struct wal *w, uint64_t index, uint64_t term, size_t len);
void test_append(struct wal *w, uint64_t first, uint64_t last, uint64_t term);
void test_commit(struct wal *w, uint64_t term, uint64_t index);
struct wal *test_open(uint64_t applied, struct wal_recovery *ret);
struct wal *test_create(void);
bool test_entry_is(const struct raft_entry *e, uint64_t index, uint64_t term, size_t len);
void test_assert_entries(const struct wal_recovery *rec, uint64_t first, uint64_t last,
                         uint64_t term);

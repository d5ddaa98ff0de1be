/* SPDX-License-Identifier: Apache-2.0 */
/* Helpers of the raft log's tests: entries whose contents say which they are. Thread: the
 * test's. */
#include "storage/wal_test_log.h"

struct wal_options test_options(void)
{
    return (struct wal_options){.dir = DIR,
                                .create = true,
                                .cluster_id = CLUSTER,
                                .member_id = MEMBER,
                                .segment_bytes = SEGMENT,
                                .salt = 0x5a17,
                                .single_threaded = true};
}

/* Contents that say which entry it is. */
struct blob *test_payload(uint64_t index, uint64_t term, size_t len)
{
    if (!len)
        return NULL;
    struct blob *b = blob_new(len);
    for (size_t i = 0; i < len; i++)
        b->data[i] = (uint8_t)(index * 31 + term * 7 + i);
    return b;
}

size_t test_payload_len(uint64_t index)
{
    return index % 5 == 0 ? 0 : 20 + index * 37 % 200;
}

int test_append_sized(struct wal *w, uint64_t index, uint64_t term, size_t len)
{
    struct raft_entry e = {
        .index = index, .term = term, .type = index % 3, .data = test_payload(index, term, len)};
    int r = wal_append(w, NULL, &e, 1);
    blob_unref(e.data);
    return r;
}

void test_append(struct wal *w, uint64_t first, uint64_t last, uint64_t term)
{
    for (uint64_t i = first; i <= last; i++)
        assert_int_equal(test_append_sized(w, i, term, test_payload_len(i)), 0);
}

void test_commit(struct wal *w, uint64_t term, uint64_t index)
{
    struct raft_hard_state hs = {.term = term, .vote = MEMBER, .commit = index};
    assert_int_equal(wal_append(w, &hs, NULL, 0), 0);
}

struct wal *test_open(uint64_t applied, struct wal_recovery *ret)
{
    struct wal_options o = test_options();
    o.applied_index = applied;
    struct wal *w = NULL;
    int r = wal_open(&w, &o, ret);
    if (r)
        print_error("wal_open: %d %s\n", r, ret->error ? ret->error : "");
    assert_int_equal(r, 0);
    return w;
}

struct wal *test_create(void)
{
    struct wal_recovery rec;
    fault_reset(1);
    struct wal *w = test_open(0, &rec);
    assert_true(rec.created);
    wal_recovery_deinit(&rec);
    return w;
}

bool test_entry_is(const struct raft_entry *e, uint64_t index, uint64_t term, size_t len)
{
    struct blob *want = test_payload(index, term, len);
    bool same = e->index == index && e->term == term &&
                e->type == (enum raft_entry_type)(index % 3) &&
                bytes_equal(blob_bytes(e->data), blob_bytes(want));
    blob_unref(want);
    return same;
}

void test_assert_entries(const struct wal_recovery *rec, uint64_t first, uint64_t last,
                         uint64_t term)
{
    assert_int_equal(rec->n_entries, last + 1 - first);
    for (uint64_t i = first; i <= last; i++)
        assert_true(test_entry_is(&rec->entries[i - first], i, term, test_payload_len(i)));
}

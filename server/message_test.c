/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A copy of a message is equal to it, holds on to its payloads, and to nothing else of it.
 */
#include "server/message.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

static uint64_t voters[] = {3, 5, 9}, learners[] = {11}, outgoing[] = {3}, next[] = {5, 9};

static void ids_equal(const struct raft_ids *a, const struct raft_ids *b)
{
    assert_int_equal(a->len, b->len);
    assert_true(a->ids != b->ids);
    assert_memory_equal(a->ids, b->ids, a->len * sizeof(*a->ids));
}

static void test_plain(void **state)
{
    struct raft_message m = {.type = RAFT_MSG_HEARTBEAT, .to = 1, .from = 2, .term = 3};
    struct raft_message *copy = message_copy(&m);

    assert_int_equal(copy->type, RAFT_MSG_HEARTBEAT);
    assert_int_equal(copy->term, 3);
    assert_int_equal(copy->n_entries + copy->context.len, 0);
    assert_null(copy->snapshot);
    assert_int_equal(message_bytes(&m), message_bytes(copy));
    assert_null(message_free(copy));
    assert_null(message_free(NULL));
}

static void test_entries(void **state)
{
    struct raft_entry entries[] = {
        {.term = 1, .index = 7, .data = blob_copy(BYTES_LIT("payload"))},
        {.term = 2, .index = 8, .type = RAFT_ENTRY_CONF_CHANGE},
    };
    char context[] = "12345678";
    struct raft_message m = {.type = RAFT_MSG_APP,
                             .entries = entries,
                             .n_entries = 2,
                             .context = bytes_of(context, 8)};
    struct raft_message *copy = message_copy(&m);

    assert_true(message_bytes(&m) >= sizeof(m) + 2 * sizeof(*entries) + 8 + 7);
    memset(context, 0, sizeof(context));
    blob_unref(entries[0].data);
    entries[0] = entries[1] = (struct raft_entry){.term = 99};
    assert_int_equal(copy->n_entries, 2);
    assert_int_equal(copy->entries[0].index, 7);
    assert_true(bytes_equal(blob_bytes(copy->entries[0].data), bytes_str("payload")));
    assert_int_equal(copy->entries[1].type, RAFT_ENTRY_CONF_CHANGE);
    assert_null(copy->entries[1].data);
    assert_true(bytes_equal(copy->context, bytes_str("12345678")));
    message_free(copy);
}

static void test_snapshot(void **state)
{
    struct raft_snapshot s = {.index = 100,
                              .term = 7,
                              .conf = {.voters = {voters, 3},
                                       .learners = {learners, 1},
                                       .voters_outgoing = {outgoing, 1},
                                       .learners_next = {next, 2},
                                       .auto_leave = true},
                              .data = blob_copy(BYTES_LIT("data"))};
    struct raft_message m = {.type = RAFT_MSG_SNAP, .snapshot = &s, .context = BYTES_LIT("c")};
    struct raft_message *copy = message_copy(&m);

    blob_unref(s.data);
    assert_true(copy->snapshot != &s);
    assert_int_equal(copy->snapshot->index, 100);
    assert_int_equal(copy->snapshot->term, 7);
    ids_equal(&copy->snapshot->conf.voters, &s.conf.voters);
    ids_equal(&copy->snapshot->conf.learners, &s.conf.learners);
    ids_equal(&copy->snapshot->conf.voters_outgoing, &s.conf.voters_outgoing);
    ids_equal(&copy->snapshot->conf.learners_next, &s.conf.learners_next);
    assert_true(copy->snapshot->conf.auto_leave);
    assert_true(bytes_equal(blob_bytes(copy->snapshot->data), bytes_str("data")));
    assert_true(bytes_equal(copy->context, bytes_str("c")));
    message_free(copy);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plain),
        cmocka_unit_test(test_entries),
        cmocka_unit_test(test_snapshot),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

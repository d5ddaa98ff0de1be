/* SPDX-License-Identifier: Apache-2.0 */
/*
 * raftpb.Message: bytes of real etcd members both ways, what older members write, what is refused
 * in either direction, random messages and broken ones.
 */
#include "api/peer_message.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#include "api/peer_message_test.h"
#include "raft/raft.h"

#define TO "10 e7f4d59289baf7970f"   /* f2fddd092557a67 */
#define FROM "18 efd2e480f3f6f6e71f" /* 1fcfdbb73019296f */

static const uint64_t to = 0x0f2fddd092557a67, from = 0x1fcfdbb73019296f;

static void assert_bytes(struct bytes actual, struct bytes expected)
{
    if (actual.len == expected.len)
        assert_memory_equal(actual.data, expected.data, expected.len);
    assert_int_equal(actual.len, expected.len);
}

/* Reads the bytes, whose message is m with members filled in, and writes them again. */
static void assert_both_ways(const char *hex, struct raft_message m)
{
    _cleanup_(peer_message_deinit) struct peer_message read = {0};
    _cleanup_(buf_deinit) struct buf bytes = BUF_NULL, written = BUF_NULL;

    m.to = to;
    m.from = from;
    test_hex(&bytes, hex);
    assert_int_equal(peer_message_decode(buf_bytes(&bytes), &read), 0);
    assert_true(test_messages_equal(&read.raft, &m));
    assert_int_equal(read.encoded_bytes, bytes.len);
    assert_int_equal(peer_message_encode(&m, &written), 0);
    assert_bytes(buf_bytes(&written), buf_bytes(&bytes));
}

static void test_golden_answers(void **state)
{
    static const uint8_t one[8] = {1};

    assert_both_ways("08 08" TO FROM "20 02 40 06",
                     (struct raft_message){.type = RAFT_MSG_HEARTBEAT, .term = 2, .commit = 6});
    assert_both_ways(
        "08 08" TO FROM "20 02 40 00 62 08 01 00 00 00 00 00 00 00",
        (struct raft_message){.type = RAFT_MSG_HEARTBEAT, .term = 2, .context = bytes_of(one, 8)});
    assert_both_ways("08 09" TO FROM "20 02 62 08 01 00 00 00 00 00 00 00",
                     (struct raft_message){
                         .type = RAFT_MSG_HEARTBEAT_RESP, .term = 2, .context = bytes_of(one, 8)});
    assert_both_ways(
        "08 04" TO FROM "20 02 28 00 30 a8 01 50 01 58 00",
        (struct raft_message){.type = RAFT_MSG_APP_RESP, .term = 2, .index = 168, .reject = true});
    assert_both_ways("08 04" TO FROM "20 02 30 07",
                     (struct raft_message){.type = RAFT_MSG_APP_RESP, .term = 2, .index = 7});
    assert_both_ways("08 04" TO FROM "20 03",
                     (struct raft_message){.type = RAFT_MSG_APP_RESP, .term = 3});
    assert_both_ways("08 06" TO FROM "20 02",
                     (struct raft_message){.type = RAFT_MSG_VOTE_RESP, .term = 2});
    assert_both_ways(
        "08 12" TO FROM "20 02 50 01",
        (struct raft_message){.type = RAFT_MSG_PRE_VOTE_RESP, .term = 2, .reject = true});
    assert_both_ways("08 0e" TO FROM "20 02",
                     (struct raft_message){.type = RAFT_MSG_TIMEOUT_NOW, .term = 2});
    assert_both_ways("08 0d" TO FROM "20 02",
                     (struct raft_message){.type = RAFT_MSG_TRANSFER_LEADER, .term = 2});
}

static void test_golden_votes(void **state)
{
    assert_both_ways(
        "08 11" TO FROM "20 02 28 01 30 02",
        (struct raft_message){.type = RAFT_MSG_PRE_VOTE, .term = 2, .log_term = 1, .index = 2});
    assert_both_ways("08 11" TO FROM "20 01 28 00 30 00",
                     (struct raft_message){.type = RAFT_MSG_PRE_VOTE, .term = 1});
    assert_both_ways("08 05" TO FROM "20 03 28 02 30 06 62 10 'CampaignTransfer'",
                     (struct raft_message){.type = RAFT_MSG_VOTE,
                                           .term = 3,
                                           .log_term = 2,
                                           .index = 6,
                                           .context = BYTES_LIT("CampaignTransfer")});
}

static void test_golden_entries(void **state)
{
    _cleanup_(buf_deinit) struct buf put = BUF_NULL, id = BUF_NULL;

    struct raft_entry noop = {.term = 2, .index = 3};
    assert_both_ways("08 03" TO FROM "20 02 28 01 30 02 3a 04 10 02 18 03 40 02",
                     (struct raft_message){.type = RAFT_MSG_APP,
                                           .term = 2,
                                           .log_term = 1,
                                           .index = 2,
                                           .commit = 2,
                                           .entries = &noop,
                                           .n_entries = 1});
    test_hex(&put, "22 12 0a04 'k0-0' 120a 'xxxxxxxxxx' a2060a 08 efd2e480f3f6f6e71f");
    struct raft_entry proposal = {.data = blob_copy(buf_bytes(&put))};
    assert_both_ways(
        "08 02" TO FROM "3a 23 22 21"
        "22 12 0a04 'k0-0' 120a 'xxxxxxxxxx' a2060a 08 efd2e480f3f6f6e71f",
        (struct raft_message){.type = RAFT_MSG_PROP, .entries = &proposal, .n_entries = 1});
    test_hex(&id, "0a67 0000 0000 0001");
    struct raft_entry read = {.data = blob_copy(buf_bytes(&id))};
    assert_both_ways(
        "08 0f" TO FROM "3a 0a 22 08 0a67 0000 0000 0001",
        (struct raft_message){.type = RAFT_MSG_READ_INDEX, .entries = &read, .n_entries = 1});
    assert_both_ways("08 10" TO FROM "20 02 30 09 3a 0a 22 08 0a67 0000 0000 0001",
                     (struct raft_message){.type = RAFT_MSG_READ_INDEX_RESP,
                                           .term = 2,
                                           .index = 9,
                                           .entries = &read,
                                           .n_entries = 1});
    blob_unref(proposal.data);
    blob_unref(read.data);
}

/* A founding entry: {type, term, index, ConfChange}, and one whose change was refused. */
static void test_golden_entry_forms(void **state)
{
    static const char founding[] =
        "08 01 10 01 18 01 22 59 | 10 00 18 efd2e480f3f6f6e71f 22 4b "
        "'{\"id\":2292292315187325295,\"peerURLs\":[\"http://127.0.0.1:24381\"],\"name\":\"a\"}'";
    _cleanup_(peer_message_deinit) struct peer_message m = {0};
    _cleanup_(buf_deinit) struct buf bytes = BUF_NULL, refused = BUF_NULL;
    uint8_t written[256];

    test_hex(&bytes, founding);
    assert_true(peer_message_add_entry(&m, buf_bytes(&bytes)));
    const struct raft_entry *e = &m.raft.entries[0];
    assert_int_equal(e->type, RAFT_ENTRY_CONF_CHANGE);
    assert_int_equal(e->term, 1);
    assert_int_equal(e->index, 1);
    assert_int_equal(e->data->len, 0x59);
    assert_int_equal(peer_entry_size(e), bytes.len);
    assert_int_equal(peer_entry_put(written, e) - written, bytes.len);
    assert_memory_equal(written, bytes.data, bytes.len);
    test_hex(&refused, "08 00 10 02 18 05");
    assert_true(peer_message_add_entry(&m, buf_bytes(&refused)));
    assert_int_equal(m.raft.entries[1].type, RAFT_ENTRY_NORMAL);
    assert_int_equal(m.raft.entries[1].index, 5);
    assert_null(m.raft.entries[1].data);
}

static void test_golden_snapshot(void **state)
{
    static const char hex[] =
        "00000000 00000046 | 08 07" TO FROM "20 02 4a 2c | 0a 00 | 12 28 0a 21"
        "08 e7f4d59289baf7970f 08 efd2e480f3f6f6e71f 08 ecd481eea0a6dd8fb701"
        "28 00 10 aa 01 18 02";
    uint64_t ids[] = {to, from, 0xb71f75320dc06a6c};
    struct raft_snapshot snapshot = {.index = 170, .term = 2, .conf.voters = {ids, 3}};
    struct raft_message m = {
        .type = RAFT_MSG_SNAP, .to = to, .from = from, .term = 2, .snapshot = &snapshot};
    _cleanup_(peer_message_deinit) struct peer_message read = {0};
    _cleanup_(buf_deinit) struct buf bytes = BUF_NULL, written = BUF_NULL;

    test_hex(&bytes, hex);
    struct bytes message = bytes_of(bytes.data + 8, bytes.len - 8);
    assert_int_equal(message.len, u64_be_get(bytes.data));
    /* Complete, but nothing for raft as long as its database is not there. */
    assert_int_equal(peer_message_decode(message, &read), PEER_MESSAGE_E_IGNORED);
    assert_true(test_messages_equal(&read.raft, &m));
    assert_int_equal(peer_snapshot_encode(&m, &written), 0);
    /* Without data the field is left out, which is two bytes less. */
    assert_int_equal(written.len, bytes.len - 2);
    peer_message_clear(&read);
    assert_int_equal(u64_be_get(written.data), written.len - 8);
    assert_int_equal(peer_message_decode(bytes_of(written.data + 8, written.len - 8), &read),
                     PEER_MESSAGE_E_IGNORED);
    assert_true(test_messages_equal(&read.raft, &m));
}

/* ---- what others may write ---- */

static int decode(const char *hex, struct peer_message *m)
{
    _cleanup_(buf_deinit) struct buf bytes = BUF_NULL;

    test_hex(&bytes, hex);
    /* In memory of exactly that size, so that the sanitizer sees a reading beyond it. */
    uint8_t *exact = mem_alloc_raw(bytes.len + !bytes.len);
    if (bytes.len > 0)
        memcpy(exact, bytes.data, bytes.len);
    int outcome = peer_message_decode(bytes_of(exact, bytes.len), m);
    free(exact);
    return outcome;
}

static void assert_decodes(const char *hex, struct raft_message expected)
{
    _cleanup_(peer_message_deinit) struct peer_message m = {0};

    assert_int_equal(decode(hex, &m), 0);
    assert_true(test_messages_equal(&m.raft, &expected));
}

static void test_foreign_forms(void **state)
{
    const struct raft_message ack = {
        .type = RAFT_MSG_APP_RESP, .to = 1, .from = 2, .term = 3, .index = 4};
    struct raft_entry e = {.term = 3, .index = 5};
    const struct raft_message append = {.type = RAFT_MSG_APP,
                                        .to = 1,
                                        .from = 2,
                                        .term = 3,
                                        .index = 4,
                                        .entries = &e,
                                        .n_entries = 1};

    /* 3.6: every scalar, an empty snapshot, vote. */
    assert_decodes("08 04 10 01 18 02 20 03 28 00 30 04 40 00 4a 0a 12 08 0a 02 28 00 10 00 18 00"
                   "50 00 58 00 68 00",
                   ack);
    assert_decodes("30 04 20 03 18 02 10 01 08 04", ack);             /* any order */
    assert_decodes("08 04 10 01 18 02 20 03 30 63 30 04", ack);       /* the last counts */
    assert_decodes("08 84 00 10 81 80 00 18 02 20 03 30 04", ack);    /* long varints */
    assert_decodes("08 84 80 80 80 10 10 01 18 02 20 03 30 04", ack); /* an enum's low half */
    assert_decodes("08 04 10 01 18 02 20 03 30 04 72 02 08 01", ack); /* responses */
    assert_decodes("08 04 10 01 18 02 20 03 30 04 78 05 82 01 01 ff f9 ff ff ff 0f"
                   "0102030405060708 dd 02 01020304",
                   ack); /* unknown: varint, bytes, fixed64 at the largest number, fixed32 */
    assert_decodes("08 04 10 01 18 02 20 03 30 04 7b 08 01 7b 7c 0b 0c 7c", ack); /* groups */
    assert_decodes("08 04 10 01 18 02 20 03 30 04 35 01020304 38 01 62 00",
                   ack); /* other wire types than the field's; an empty context */
    assert_decodes("08 03 10 01 18 02 20 03 30 04 3a 08 22 00 18 05 10 03 08 00", append);
    e.type = RAFT_ENTRY_CONF_CHANGE;
    assert_decodes("08 03 10 01 18 02 20 03 30 04 3a 0a 18 05 10 03 08 81 80 80 80 10", append);
    e.type = RAFT_ENTRY_NORMAL;
    assert_decodes("08 04 10 01 18 02 20 03 50 02 58 00",
                   (struct raft_message){
                       .type = RAFT_MSG_APP_RESP, .to = 1, .from = 2, .term = 3, .reject = true});
    assert_decodes("08 03 10 01 18 02 20 03 30 04 3a 0b 22 01 61 22 00 10 03 18 05 78 01", append);
}

/* Groups inside each other, as deep as anybody may need them and no deeper. */
static void test_groups(void **state)
{
    _cleanup_(peer_message_deinit) struct peer_message m = {0};

    for (size_t depth = 1; depth <= 40; depth++) {
        _cleanup_(buf_deinit) struct buf b = BUF_NULL;
        test_hex(&b, "08 0e 10 01 18 02 20 03");
        for (size_t i = 0; i < depth; i++)
            test_hex(&b, "7b");
        for (size_t i = 0; i < depth; i++)
            test_hex(&b, "7c");
        assert_int_equal(peer_message_decode(buf_bytes(&b), &m),
                         depth <= 32 ? 0 : PEER_MESSAGE_E_WIRE);
    }
}

static void test_conf_state_forms(void **state)
{
    _cleanup_(peer_message_deinit) struct peer_message m = {0};

    /* Unsorted, packed and unpacked, in two parts that are merged; data twice, the last counts. */
    assert_int_equal(decode("08 07 10 01 18 02 20 03 4a 1e 0a 01 61 12 0e 0a 0c 08 05 0a 03 03 04"
                            "01 10 07 18 09 28 01 12 09 10 08 18 02 0a 03 08 02 28",
                            &m),
                     PEER_MESSAGE_E_WIRE);
    assert_int_equal(decode("08 07 10 01 18 02 20 03 4a 23 0a 01 61 12 0f 0a 0d 08 05 0a 03 03 04"
                            "01 10 07 18 09 28 01 12 08 10 08 18 02 0a 02 08 02 0a 03 62 63 64",
                            &m),
                     PEER_MESSAGE_E_IGNORED);
    const struct raft_snapshot *s = m.raft.snapshot;
    static const uint64_t voters[] = {1, 2, 3, 4, 5};
    assert_int_equal(s->conf.voters.len, 5);
    assert_memory_equal(s->conf.voters.ids, voters, sizeof(voters));
    assert_int_equal(s->conf.learners.len, 1);
    assert_int_equal(s->conf.voters_outgoing.ids[0], 9);
    assert_true(s->conf.auto_leave);
    assert_int_equal(s->index, 8);
    assert_int_equal(s->term, 2);
    assert_memory_equal(s->data->data, "bcd", 3);
    /* An id twice is no set. */
    assert_int_equal(decode("08 07 10 01 18 02 20 03 4a 08 12 06 0a 04 08 05 08 05", &m),
                     PEER_MESSAGE_E_WIRE);
}

static void test_ignored(void **state)
{
    static const uint8_t local[] = {0, 1, 7, 10, 11, 12, 19, 20, 21, 22, 23, 24, 99};
    _cleanup_(peer_message_deinit) struct peer_message m = {0};

    for (size_t i = 0; i < sizeof(local); i++) {
        uint8_t bytes[] = {0x08, local[i], 0x10, 1, 0x18, 2, 0x20, 3};
        assert_int_equal(peer_message_decode(bytes_of(bytes, sizeof(bytes)), &m),
                         PEER_MESSAGE_E_IGNORED);
        assert_int_equal(m.raft.from, 2);
    }
    assert_int_equal(decode("", &m), PEER_MESSAGE_E_IGNORED);
    assert_int_equal(decode("08 ff ff ff ff ff ff ff ff ff 01 10 01", &m), PEER_MESSAGE_E_IGNORED);
    /* The entries around one of an unknown type are there. */
    assert_int_equal(
        decode("08 03 10 01 18 02 20 03 30 04 3a 04 10 03 18 05 3a 06 08 03 10 03 18 06", &m),
        PEER_MESSAGE_E_IGNORED);
    assert_int_equal(m.raft.n_entries, 2);
    assert_int_equal(m.raft.entries[1].index, 6);
    assert_true(m.has_unknown_entry);
}

static void test_refused_bytes(void **state)
{
    static const char *const cases[] = {
        "08",                               /* cut */
        "08 80",                            /* cut */
        "08 80 80 80 80 80 80 80 80 80 02", /* 65 bits */
        "00 01",                            /* field 0 */
        "80 80 80 80 10 01",                /* beyond the largest field */
        "3a 05 10 01",                      /* longer than what is there */
        "3a ff ff ff ff ff ff ff ff ff 01 10",
        "3a 02 10 80", /* cut inside an entry */
        "0e",
        "0f",          /* no wire types */
        "7c",          /* the end of a group that did not begin */
        "7b 08 01",    /* a group without end */
        "7b 0c",       /* with another end */
        "79 01 02 03", /* fixed64, cut */
        "7d 01 02 03", /* fixed32, cut */
        "62 41 000102030405060708090a0b0c0d0e0f 000102030405060708090a0b0c0d0e0f"
        "000102030405060708090a0b0c0d0e0f 000102030405060708090a0b0c0d0e0f 00", /* a long context */
        "4a 04 12 02 0a 05",       /* cut inside a snapshot */
        "4a 06 12 04 0a 02 0a 01", /* inside a packed set */
    };
    _cleanup_(peer_message_deinit) struct peer_message m = {0};

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        if (decode(cases[i], &m) != PEER_MESSAGE_E_WIRE)
            fail_msg("taken: %s", cases[i]);
}

static void test_limits(void **state)
{
    _cleanup_(peer_message_deinit) struct peer_message m = {0};
    _cleanup_(buf_deinit) struct buf b = BUF_NULL, conf = BUF_NULL;

    test_hex(&b, "08 03 10 01 18 02 20 03");
    for (int i = 0; i < PEER_MESSAGE_ENTRIES_MAX; i++)
        test_hex(&b, "3a 00");
    assert_int_equal(peer_message_decode(buf_bytes(&b), &m), 0);
    assert_int_equal(m.raft.n_entries, PEER_MESSAGE_ENTRIES_MAX);
    test_hex(&b, "3a 00");
    assert_int_equal(peer_message_decode(buf_bytes(&b), &m), PEER_MESSAGE_E_WIRE);
    peer_message_clear(&m);
    assert_int_equal(m.entries_cap, 0); /* so much room is not kept */

    for (uint64_t members = RAFT_MEMBERS_MAX; members <= RAFT_MEMBERS_MAX + 1; members++) {
        buf_clear(&b);
        buf_clear(&conf);
        for (uint64_t id = 1; id <= members; id++) {
            buf_append_u8(&conf, 0x08);
            buf_append_varint(&conf, id);
        }
        test_hex(&b, "08 07 10 01 18 02 20 03 4a");
        buf_append_varint(&b, conf.len + 6);
        buf_append_u8(&b, 0x12);
        buf_append_varint(&b, conf.len + 3);
        buf_append_u8(&b, 0x0a);
        buf_append_varint(&b, conf.len);
        buf_append_bytes(&b, buf_bytes(&conf));
        assert_int_equal(peer_message_decode(buf_bytes(&b), &m), members == RAFT_MEMBERS_MAX
                                                                     ? PEER_MESSAGE_E_IGNORED
                                                                     : PEER_MESSAGE_E_WIRE);
    }
}

/* ---- what may not be written ---- */

static void assert_unsafe(const struct raft_message *m)
{
    _cleanup_(buf_deinit) struct buf out = BUF_NULL;

    buf_append_str(&out, "before");
    assert_non_null(peer_message_unsafe(m));
    assert_int_equal(peer_message_encode(m, &out), PEER_MESSAGE_E_UNSAFE);
    assert_int_equal(peer_snapshot_encode(m, &out), PEER_MESSAGE_E_UNSAFE);
    assert_string_equal(buf_cstr(&out), "before");
}

static void test_unsafe_contexts(void **state)
{
    static const uint8_t context[RAFT_CONTEXT_MAX + 1];
    const enum raft_message_type types[] = {RAFT_MSG_HEARTBEAT, RAFT_MSG_HEARTBEAT_RESP};

    for (size_t i = 0; i < 2; i++) {
        struct raft_message m = {.type = types[i], .to = 1, .from = 2, .term = 3};
        for (size_t len = 0; len <= sizeof(context); len++) {
            m.context = bytes_of(context, len);
            if (len == 0 || (len >= 8 && len <= RAFT_CONTEXT_MAX))
                assert_null(peer_message_unsafe(&m));
            else
                assert_unsafe(&m);
        }
    }
}

static void test_unsafe_messages(void **state)
{
    struct raft_entry entries[] = {{.term = 2, .index = 6}, {.term = 3, .index = 7}};
    const struct raft_message append = {.type = RAFT_MSG_APP,
                                        .to = 1,
                                        .from = 2,
                                        .term = 3,
                                        .log_term = 2,
                                        .index = 5,
                                        .entries = entries,
                                        .n_entries = 2};
    struct raft_message m = append;
    struct raft_snapshot snapshot = {.index = 1, .term = 1};

    assert_null(peer_message_unsafe(&m));
#define WITH(...)                                                                                  \
    m = append;                                                                                    \
    __VA_ARGS__;                                                                                   \
    assert_unsafe(&m)
    WITH(m.to = 0);
    WITH(m.from = 0);
    WITH(m.to = UINT64_MAX);
    WITH(m.from = UINT64_MAX - 1);
    WITH(m.term = 0);
    WITH(m.index = 4);
    WITH(m.log_term = 4);
    WITH(m.log_term = 3);
    WITH(m.term = 2);
    WITH(m.log_term = 4; m.n_entries = 0);
    entries[0].index = 0;
    WITH(m.index = UINT64_MAX; m.n_entries = 1);
    entries[0].index = 6;
    WITH(m.n_entries = PEER_MESSAGE_ENTRIES_MAX + 1);
    WITH(m.snapshot = &snapshot);
    WITH(m.type = RAFT_MSG_PROP);
    WITH(m.type = RAFT_MSG_PROP; m.term = 0; m.n_entries = 0);
    WITH(m.type = RAFT_MSG_READ_INDEX; m.term = 0);
    WITH(m.type = RAFT_MSG_READ_INDEX_RESP);
    WITH(m.type = RAFT_MSG_READ_INDEX_RESP; m.n_entries = 0);
    for (int type = 0; type < 30; type++) {
        enum raft_message_type t = (enum raft_message_type)type;
        bool ours = false;
        for (int i = 0; i < TEST_TYPES; i++)
            ours |= test_types[i] == t;
        if (!ours) {
            WITH(m.type = t; m.n_entries = 0);
        }
    }
    m = (struct raft_message){
        .type = RAFT_MSG_PROP, .to = 1, .from = 2, .entries = entries, .n_entries = 2};
    entries[0].data = entries[1].data = blob_new(PEER_PAYLOADS_BYTES_MAX / 2);
    assert_null(peer_message_unsafe(&m));
    blob_unref(entries[0].data);
    entries[0].data = entries[1].data = blob_new(PEER_PAYLOADS_BYTES_MAX / 2 + 1);
    assert_unsafe(&m);
    blob_unref(entries[0].data);
    entries[0].data = entries[1].data = NULL;
    entries[1].type = RAFT_ENTRY_CONF_CHANGE_V2;
    WITH((void)0);
    entries[1] = (struct raft_entry){.term = 1, .index = 7};
    WITH((void)0);
    entries[1] = (struct raft_entry){.term = 3, .index = 8};
    WITH((void)0);
#undef WITH
}

static void test_unsafe_snapshots(void **state)
{
    uint64_t ids[] = {1};
    struct raft_snapshot good = {.index = 5, .term = 2, .conf.voters = {ids, 1}}, s = good;
    struct raft_message m = {.type = RAFT_MSG_SNAP, .to = 1, .from = 2, .term = 2, .snapshot = &s};
    _cleanup_(buf_deinit) struct buf out = BUF_NULL;

    assert_int_equal(peer_snapshot_encode(&m, &out), 0);
    assert_int_equal(peer_message_encode(&m, &out), PEER_MESSAGE_E_UNSAFE); /* no bare one */
    s.index = 0;
    assert_unsafe(&m);
    s = good;
    s.term = 0;
    assert_unsafe(&m);
    s.term = 3;
    assert_unsafe(&m);
    s = good;
    s.data = blob_new(PEER_SNAPSHOT_DATA_BYTES_MAX + 1);
    assert_unsafe(&m);
    blob_unref(s.data);
    s = good;
    s.conf.voters.len = 0;
    assert_unsafe(&m);
    s = good;
    m.n_entries = 1;
    m.entries = &(struct raft_entry){.term = 2, .index = 6};
    assert_unsafe(&m);
    m.n_entries = 0;
    m.snapshot = NULL;
    assert_unsafe(&m);
}

/* ---- at random ---- */

static void test_round_trip(void **state)
{
    _cleanup_(peer_message_deinit) struct peer_message m = {0}, read = {0};
    _cleanup_(buf_deinit) struct buf out = BUF_NULL;
    struct rng rng;
    uint64_t seed = 20261128;

    print_message("seed %llu\n", (unsigned long long)seed);
    rng_init(&rng, seed);
    for (int round = 0; round < 20000; round++) {
        bool snapshot = round % 16 == 15;
        test_message(&rng, snapshot ? RAFT_MSG_SNAP : test_types[round % TEST_TYPES], &m);
        buf_clear(&out);
        assert_null(peer_message_unsafe(&m.raft));
        int r = snapshot ? peer_snapshot_encode(&m.raft, &out) : peer_message_encode(&m.raft, &out);
        assert_int_equal(r, 0);
        size_t head = snapshot ? 8 : 0;
        assert_int_equal(peer_message_decode(bytes_of(out.data + head, out.len - head), &read),
                         snapshot ? PEER_MESSAGE_E_IGNORED : 0);
        assert_true(test_messages_equal(&read.raft, &m.raft));
    }
}

/* Whatever bit is wrong: an outcome, and what can be written of it says the same again. */
static void test_every_bit(void **state)
{
    _cleanup_(peer_message_deinit) struct peer_message m = {0}, read = {0}, again = {0};
    _cleanup_(buf_deinit) struct buf out = BUF_NULL, rewritten = BUF_NULL;
    struct rng rng;

    rng_init(&rng, 7);
    for (int round = 0; round < 2 * TEST_TYPES; round++) {
        test_message(&rng, test_types[round % TEST_TYPES], &m);
        buf_clear(&out);
        assert_int_equal(peer_message_encode(&m.raft, &out), 0);
        for (size_t bit = 0; bit < 8 * out.len; bit++) {
            out.data[bit / 8] ^= (uint8_t)(1u << bit % 8);
            uint8_t *exact = mem_alloc_raw(out.len);
            memcpy(exact, out.data, out.len);
            int r = peer_message_decode(bytes_of(exact, out.len), &read);
            free(exact);
            assert_in_range(r, 0, PEER_MESSAGE_E_IGNORED);
            buf_clear(&rewritten);
            if (r == 0 && peer_message_encode(&read.raft, &rewritten) == 0) {
                assert_int_equal(peer_message_decode(buf_bytes(&rewritten), &again), 0);
                assert_true(test_messages_equal(&again.raft, &read.raft));
            }
            out.data[bit / 8] ^= (uint8_t)(1u << bit % 8);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden_answers),   cmocka_unit_test(test_golden_votes),
        cmocka_unit_test(test_golden_entries),   cmocka_unit_test(test_golden_entry_forms),
        cmocka_unit_test(test_golden_snapshot),  cmocka_unit_test(test_foreign_forms),
        cmocka_unit_test(test_conf_state_forms), cmocka_unit_test(test_groups),
        cmocka_unit_test(test_ignored),          cmocka_unit_test(test_refused_bytes),
        cmocka_unit_test(test_limits),           cmocka_unit_test(test_unsafe_contexts),
        cmocka_unit_test(test_unsafe_messages),  cmocka_unit_test(test_unsafe_snapshots),
        cmocka_unit_test(test_round_trip),       cmocka_unit_test(test_every_bit),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

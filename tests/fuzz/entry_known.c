/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Entries that end in a check() or in a store that can't be opened again: found by the target,
 * known, and left out of its runs until each is mended; then its lines here go, and its case comes
 * into the corpus. Only the last can come from a member that means well.
 *
 * Thread: any.
 */
#include "server/internal_request.h"
#include "server/member.h"
#include "tests/fuzz/entry_known.h"

/* A put without a key ends in a check() of mvcc_put(). */
static bool puts_nothing(const Etcdserverpb__TxnRequest *t)
{
    for (size_t i = 0; i < t->n_success + t->n_failure; i++) {
        const Etcdserverpb__RequestOp *op =
            i < t->n_success ? t->success[i] : t->failure[i - t->n_success];
        if (op->request_case == ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_PUT &&
            op->request_put->key.len == 0)
            return true;
        if (op->request_case == ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_TXN &&
            puts_nothing(op->request_txn))
            return true;
    }
    return false;
}

/* A member of id 0 comes into the table; raft takes no such configuration at the next start. */
static bool adds_zero(struct bytes entry, ProtobufCAllocator *allocator)
{
    const Raftpb__ConfChange *c = raftpb__conf_change__unpack(allocator, entry.len, entry.data);

    return c && c->node_id == 0;
}

/* Of two requests in one entry the first in the order of dispatch() runs, but what is made ready
 * for it is for the other one. */
static bool is_several(const Etcdserverpb__InternalRaftRequest *q)
{
    return !!q->put + !!q->txn + !!q->delete_range + !!q->compaction + !!q->lease_revoke > 1;
}

/* The target of a downgrade that is no text grows in its record, and then can't be read. */
static bool is_no_text(const char *s)
{
    while (*s > 0)
        s++;
    return *s != 0;
}

/* A name or URL with U+0001 in front: its record reads as a number, and no member starts again. */
static bool is_marked(const Membershippb__Attributes *a)
{
    bool marked = a && a->name[0] == '\x01';

    for (size_t i = 0; a && i < a->n_client_urls; i++)
        marked |= a->client_urls[i][0] == '\x01';
    return marked;
}

static bool is_known_request(const Etcdserverpb__InternalRaftRequest *q)
{
    return (q->put && q->put->key.len == 0) || (q->txn && puts_nothing(q->txn)) || is_several(q) ||
           (q->downgrade_info_set && is_no_text(q->downgrade_info_set->ver)) ||
           (q->cluster_member_attr_set && is_marked(q->cluster_member_attr_set->member_attributes));
}

bool entry_is_known(const struct raft_entry *e)
{
    struct arena arena;
    ProtobufCAllocator allocator = arena_allocator(&arena);
    bool known;

    arena_init(&arena);
    if (e->type != RAFT_ENTRY_NORMAL) {
        known = adds_zero(blob_bytes(e->data), &allocator);
    } else {
        const Etcdserverpb__InternalRaftRequest *q =
            internal_request_decode(blob_bytes(e->data), &arena);
        known = q && is_known_request(q);
    }
    arena_deinit(&arena);
    return known;
}

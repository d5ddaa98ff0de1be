/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The committed log (see truth.h), from which the model is fed.
 *
 * Thread: the only one.
 */
#include "tests/sim/truth.h"

#include <stdlib.h>

#include "base/check.h"
#include "base/mem.h"
#include "tests/sim/cluster.h"
#include "tests/sim/holders.h"
#include "tests/sim/table.h"
#include "tests/sim/trace.h"

static struct {
    struct truth_entry *entries; /* of index i at i */
    size_t len, cap;             /* len - 1 is the highest index */
    uint64_t applied;
    struct table requests; /* id -> index */
} truth;

void truth_init(void)
{
    memset(&truth, 0, sizeof(truth));
    truth.len = 1;
    model_init();
    cluster_init();
}

void truth_deinit(void)
{
    for (size_t i = 1; i < truth.len; i++)
        blob_unref(truth.entries[i].data);
    free(truth.entries);
    table_deinit(&truth.requests);
    memset(&truth, 0, sizeof(truth));
    model_deinit();
    cluster_deinit();
}

uint64_t truth_committed(void)
{
    return truth.len - 1;
}

uint64_t truth_applied(void)
{
    return truth.applied;
}

const struct truth_entry *truth_at(uint64_t index)
{
    return index > 0 && index < truth.len ? &truth.entries[index] : NULL;
}

uint64_t entry_digest(const struct raft_entry *e)
{
    struct bytes data = blob_bytes(e->data);

    return digest_bytes((uint64_t)e->type + 1, data.data, data.len) | 1;
}

static struct truth_entry *add(void)
{
    if (truth.len >= truth.cap) {
        truth.cap = truth.cap ? 2 * truth.cap : 1024;
        truth.entries = mem_realloc(truth.entries, truth.cap * sizeof(*truth.entries));
    }
    truth.entries[truth.len] = (struct truth_entry){0};
    return &truth.entries[truth.len++];
}

void truth_commit(uint64_t index, uint64_t entry_term, uint64_t in_term, const char *who)
{
    check(index > 0);
    if (index < truth.len) {
        require(truth.entries[index].term == entry_term, "committed entries never change",
                "%s commits entry %lu of term %lu, it was of term %lu", who, (unsigned long)index,
                (unsigned long)entry_term, (unsigned long)truth.entries[index].term);
        return;
    }
    require(index == truth.len, "commits are consecutive", "%s commits %lu, the last was %zu", who,
            (unsigned long)index, truth.len - 1);
    struct truth_entry *e = add();
    e->term = entry_term;
    e->committed_in = in_term;
}

static void note_request(struct truth_entry *e, uint64_t index,
                         const Etcdserverpb__InternalRaftRequest *q)
{
    uint64_t id = q->header && q->header->id ? q->header->id : q->id, other;

    e->request_id = id;
    if (id == 0)
        return;
    require(!table_get(&truth.requests, id, &other), "nothing is proposed twice",
            "request %lx is in entries %lu and %lu", (unsigned long)id, (unsigned long)other,
            (unsigned long)index);
    table_put(&truth.requests, id, index);
}

static void note_lease(uint64_t index, const Etcdserverpb__InternalRaftRequest *q)
{
    for (size_t i = 0; q->lease_checkpoint && i < q->lease_checkpoint->n_checkpoints; i++) {
        const Etcdserverpb__LeaseCheckpoint *c = q->lease_checkpoint->checkpoints[i];
        trace3("entry %lu: lease %lu has %lu s left", index, (uint64_t)c->id,
               (uint64_t)c->remaining_ttl);
    }
    if (!q->lease_revoke)
        return;
    trace2("entry %lu: lease %lu is revoked", index, (uint64_t)q->lease_revoke->id);
    check_lease_revoked(q->lease_revoke->id);
}

static Etcdserverpb__InternalRaftRequest *decode(const struct truth_entry *e)
{
    struct bytes data = blob_bytes(e->data);

    return etcdserverpb__internal_raft_request__unpack(NULL, data.len, data.data);
}

static void apply_first(const struct raft_entry *entry)
{
    struct truth_entry *e = &truth.entries[entry->index];

    check(entry->index == truth.applied + 1);
    e->applied = true;
    e->type = entry->type;
    e->digest = entry_digest(entry);
    e->data = blob_ref(entry->data);
    e->mark = model_now(entry->index);
    truth.applied = entry->index;
    if (entry->type != RAFT_ENTRY_NORMAL)
        cluster_apply(entry);
    if (entry->type != RAFT_ENTRY_NORMAL || blob_bytes(entry->data).len == 0)
        return;
    Etcdserverpb__InternalRaftRequest *q = decode(e);
    require(q, "entries parse", "entry %lu does not", (unsigned long)entry->index);
    note_request(e, entry->index, q);
    note_lease(entry->index, q);
    model_apply(entry->index, q);
    etcdserverpb__internal_raft_request__free_unpacked(q, NULL);
}

void truth_apply(const struct raft_entry *entry, const char *who)
{
    const struct truth_entry *e = truth_at(entry->index);

    require(e, "only committed entries are applied", "%s applies entry %lu of term %lu", who,
            (unsigned long)entry->index, (unsigned long)entry->term);
    require(e->term == entry->term, "the same entry is applied everywhere",
            "%s applies entry %lu of term %lu instead of term %lu", who,
            (unsigned long)entry->index, (unsigned long)entry->term, (unsigned long)e->term);
    if (!e->applied) {
        require(entry->index == truth.applied + 1, "entries are applied in order",
                "%s applies entry %lu, the last was %lu", who, (unsigned long)entry->index,
                (unsigned long)truth.applied);
        apply_first(entry);
        return;
    }
    require(e->digest == entry_digest(entry), "the same entry is applied everywhere",
            "%s applies entry %lu of term %lu with other contents", who,
            (unsigned long)entry->index, (unsigned long)entry->term);
}

void truth_effects(uint64_t index, uint64_t effects, const char *who)
{
    struct truth_entry *e = &truth.entries[index];

    check(truth_at(index));
    if (!e->has_effects) {
        e->has_effects = true;
        e->effects = effects;
        return;
    }
    require(e->effects == effects, "an entry has the same effect everywhere",
            "%s applied entry %lu to another effect", who, (unsigned long)index);
}

uint64_t truth_find_request(uint64_t request_id)
{
    uint64_t index = 0;

    (void)table_get(&truth.requests, request_id, &index);
    return index;
}

Etcdserverpb__InternalRaftRequest *truth_request(uint64_t index)
{
    check(truth_at(index) && truth_at(index)->applied);
    return decode(truth_at(index));
}

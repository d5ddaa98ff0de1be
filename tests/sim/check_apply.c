/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What members apply (see checks.h).
 *
 *   order    entries come in the order of the log, the applied index is part of the batch that has
 *            their effects, and is written by nobody else
 *   effect   the records that an entry puts into its batch are the same on all members. Those of
 *            versions, revisions and heads are written for a whole turn at once, and name their
 *            revision: they are the same wherever they are written
 *   hash     HashKV at one revision and compaction is the same on all members
 *
 * Thread: the only one.
 */
#include <stdlib.h>

#include "base/check.h"
#include "base/mem.h"
#include "storage/schema.h"
#include "tests/sim/checks.h"
#include "tests/sim/counters.h"
#include "tests/sim/table.h"
#include "tests/sim/truth.h"

#define LU(x) ((unsigned long)(x))

enum { BATCHES_MAX = 8 };

struct applier {
    uint64_t in_entry; /* the fiber that applies one; 0: none */
    uint64_t entry;    /* its index */
    uint64_t effects;
    uint64_t applied; /* the last entry of this life; 0: none */
    /* The applied indices that batches hold: apply's, and those of snapshots that come in. */
    struct held {
        const struct db_batch *batch; /* NULL: free */
        uint64_t applied;
    } held[BATCHES_MAX];
};

static struct applier appliers[MACHINES_MAX + 1];
static struct table hashes;   /* revision and compaction -> hash */
static struct table versions; /* fingerprint of kind, key and revision -> of the value */

static struct applier *applier(const struct machine *m)
{
    return &appliers[m->number];
}

void check_apply_init(void)
{
    memset(appliers, 0, sizeof(appliers));
    table_deinit(&hashes);
    table_deinit(&versions);
}

void check_apply_died(const struct machine *m)
{
    *applier(m) = (struct applier){0};
}

void check_apply_entry(struct machine *m, const struct raft_entry *entry)
{
    struct applier *a = applier(m);

    require(a->applied == 0 || entry->index == a->applied + 1, "entries are applied in order",
            "%s applies %lu after %lu", m->name, LU(entry->index), LU(a->applied));
    truth_apply(entry, m->name);
    a->in_entry = fiber_id(fiber_current());
    a->entry = entry->index;
    a->effects = 1;
}

void check_entry_applied(struct machine *m, const struct raft_entry *entry)
{
    struct applier *a = applier(m);

    a->in_entry = 0;
    a->applied = entry->index;
    truth_effects(entry->index, a->effects, m->name);
}

/* The snapshot's state is as if its entries had been applied. */
void check_applied_snapshot(const struct machine *m, uint64_t index)
{
    require(index <= truth_applied(), "a snapshot holds what was committed", "%s: %lu", m->name,
            LU(index));
    trace2("m%lu has the snapshot at %lu", m->number, index);
    applier(m)->applied = index;
}

static bool is_applied_index(const struct bytes *key, size_t n_key)
{
    static const char name[] = "mapplied";

    return n_key == 1 && key->len == sizeof(name) - 1 &&
           memcmp(key->data, name, sizeof(name) - 1) == 0;
}

static uint64_t digest_parts(uint64_t digest, const struct bytes *parts, size_t n)
{
    struct buf whole = BUF_NULL;

    for (size_t i = 0; i < n; i++)
        buf_append_bytes(&whole, parts[i]);
    digest = digest_bytes(digest, whole.data, whole.len);
    buf_deinit(&whole);
    return digest;
}

/* A record with a revision: of a head the value has it, else the key. Compactions only delete. */
static void check_version(const struct machine *m, const struct bytes *key, size_t n_key,
                          const struct bytes *value, size_t n_value)
{
    uint64_t id = digest_parts(1, key, n_key), digest = digest_parts(2, value, n_value), other;
    struct head head;

    if (key->data[0] == 'h') {
        check(n_value == 1 && schema_head_decode(value[0], &head));
        id = mix64(id ^ mix64((uint64_t)head.mod.main ^ (uint64_t)head.mod.sub << 40));
    }
    if (!table_get(&versions, id | 1, &other))
        table_put(&versions, id | 1, digest);
    else
        require(other == digest, "an entry has the same effect everywhere",
                "%s writes another record of kind %c", m->name, key->data[0]);
}

static struct held *held_in(struct applier *a, const struct db_batch *batch)
{
    for (int i = 0; i < BATCHES_MAX; i++)
        if (a->held[i].batch == batch)
            return &a->held[i];
    return NULL;
}

static void hold(struct applier *a, const struct db_batch *batch, uint64_t applied)
{
    struct held *h = held_in(a, batch);

    if (!h)
        h = held_in(a, NULL);
    if (!h) /* some were never written */
        h = &a->held[applied % BATCHES_MAX];
    *h = (struct held){batch, applied};
}

void check_batch_record(struct machine *m, const struct db_batch *batch, const struct bytes *key,
                        size_t n_key, const struct bytes *value, size_t n_value, bool deleted)
{
    struct applier *a = applier(m);

    if (is_applied_index(key, n_key) && !deleted) {
        check(n_value == 1 && value->len == 16);
        hold(a, batch, u64_be_get(value->data));
        return;
    }
    if (memchr("khr", key->data[0], 3)) {
        if (!deleted)
            check_version(m, key, n_key, value, n_value);
        return;
    }
    if (a->in_entry != fiber_id(fiber_current()) || key->data[0] == 'm')
        return;
    a->effects = mix64(a->effects + deleted + 1);
    a->effects = digest_parts(digest_parts(a->effects, key, n_key), value, n_value);
}

void check_batch_written(struct machine *m, struct db *db, const struct db_batch *batch)
{
    struct applier *a = applier(m);
    struct open_store *s = machine_store(m, db);
    struct held *h = held_in(a, batch);

    if (!s || !h)
        return;
    require(h->applied >= s->applied, "the applied index only grows", "%s: %lu after %lu", m->name,
            LU(h->applied), LU(s->applied));
    require(h->applied == a->applied || (a->in_entry && h->applied == a->entry) ||
                a->applied == 0 || s->applied == 0 /* a snapshot is read */,
            "the applied index is that of the batch's last entry", "%s: %lu, applied is %lu",
            m->name, LU(h->applied), LU(a->applied));
    s->applied = h->applied;
    h->batch = NULL;
}

void check_hash_kv(const struct machine *m, int64_t revision, int64_t compacted, uint32_t hash)
{
    uint64_t key = (uint64_t)revision << 32 | (uint32_t)(compacted + 1), other;

    /* Where no key is live, etcd's hash takes in what compactions have not deleted yet. */
    if (!model_any_live(revision))
        return;
    if (!table_get(&hashes, key, &other)) {
        table_put(&hashes, key, hash);
        return;
    }
    count(COUNT_HASHES, 1);
    require(other == hash, "HashKV is the same on all members",
            "%s at revision %ld, compacted %ld: %x instead of %lx", m->name, (long)revision,
            (long)compacted, hash, LU(other));
}

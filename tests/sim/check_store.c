/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A member's whole store against the model (see checks.h): every version in it is one that the log
 * made, and those that no compaction may take are all there, tombstones at the compaction's own
 * revision among them (a watch may begin there), each with its record of the revision; and there is
 * a head for each live key.
 *
 * Thread: the only one; on a fiber of the member, which may lose the processor in between.
 */
#include "base/check.h"
#include "server/server_private.h"
#include "storage/schema.h"
#include "tests/sim/checks.h"
#include "tests/sim/model.h"

#define LU(x) ((unsigned long)(x))

struct store_check {
    const struct machine *m;
    int64_t compacted;
    uint64_t n_kept, n_heads, n_revisions;
};

static void check_k(struct store_check *c, struct bytes key, struct bytes value)
{
    struct buf name = BUF_NULL;
    struct rev rev;
    struct kv kv;
    bool kept = false;

    require(schema_parse_k(key, &name, &rev) && kv_decode(value, &kv), "records parse",
            "%s: a version", c->m->name);
    require(bytes_equal(buf_bytes(&name), kv.key), "records parse", "%s: a version of two keys",
            c->m->name);
    model_check_stored(c->m->name, rev.main, rev.sub, &kv, c->compacted, &kept);
    c->n_kept += kept;
    buf_deinit(&name);
}

static void check_record(struct store_check *c, struct bytes key, struct bytes value)
{
    struct rev rev;

    switch (key.data[0]) {
    case 'h': c->n_heads++; break;
    case 'k': check_k(c, key, value); break;
    case 'r':
        require(schema_parse_r(key, &rev), "records parse", "%s: a revision", c->m->name);
        c->n_revisions += rev.main >= c->compacted;
        break;
    default: break;
    }
}

void check_store(const struct machine *m)
{
    struct db *db = m->server->store.db;
    struct db_view *view = db_view_new(db);
    struct store_check c = {.m = m, .compacted = mvcc_compacted(m->server->store.mvcc)};
    struct db_iter *it = db_iter_new(db, &(struct db_iter_options){.view = view});
    uint64_t live, kept;

    for (db_iter_seek(it, BYTES_LIT("\0")); db_iter_valid(it); db_iter_next(it))
        check_record(&c, db_iter_key(it), db_iter_value(it));
    db_iter_free(it);
    db_view_free(db, view);
    kept = model_kept(c.compacted, &live);
    require(c.n_kept == kept, "the store holds what the log says",
            "%s has %lu of %lu versions, compacted at %ld", m->name, LU(c.n_kept), LU(kept),
            (long)c.compacted);
    require(c.n_heads == live, "the store holds what the log says", "%s: %lu heads of %lu keys",
            m->name, LU(c.n_heads), LU(live));
    require(c.n_revisions == model_changes(c.compacted), "the store holds what the log says",
            "%s: %lu of %lu changes, compacted at %ld", m->name, LU(c.n_revisions),
            LU(model_changes(c.compacted)), (long)c.compacted);
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a watch is told, against the model's history. Of all changes, those of its keys and filters
 * must come: it has a place in them (`at`), and the next event must be the next of them. That one
 * comparison finds what is missing, twice, out of order or not asked for; when it fails, the event
 * itself says which of them it is.
 *
 *   ordered       no event before one that was told
 *   unique        none twice, also over members and restarts
 *   reliable      none left out; and in the end all are told (watchers_done)
 *   atomic        a revision is told in one response, or in parts that say so
 *   resumable     a watch from a revision on is told all since then, or that it is compacted
 *   bookmarkable  after a notification of progress nothing up to its revision comes
 *   filtered      only what was asked for, with what was before it if that was asked for
 *
 * Thread: the only one; on fibers of the members, without losing the processor.
 */
#include "rpc.pb-c.h"

#include "base/check.h"
#include "tests/sim/model.h"
#include "tests/sim/trace.h"
#include "tests/sim/watchers.h"

#define LD(x) ((long)(x))
#define SHOW(b) (int)(b).len, (const char *)(b).data

static bool wants(const struct watch *w, const struct model_change *c)
{
    const struct watch_request *q = &w->request;
    struct bytes key = q->key.len > 0 ? q->key : bytes_of("", 1);

    return model_within(c->kv.key, key, q->range_end) && !(c->deleted ? q->no_delete : q->no_put);
}

/* The next change that it must be told. False: there is none. */
static bool next_wanted(struct watch *w, struct model_change *ret)
{
    for (; w->at < model_n_changes(); w->at++) {
        *ret = model_change(w->at);
        if (ret->main >= w->next && wants(w, ret))
            return true;
    }
    return false;
}

bool check_watch_is_done(struct watch *w)
{
    struct model_change c;

    return w->next > 0 && !next_wanted(w, &c);
}

/* ---- one event ---- */

static struct kv kv_of(const Mvccpb__KeyValue *kv)
{
    return (struct kv){.key = bytes_of(kv->key.data, kv->key.len),
                       .create = kv->create_revision,
                       .mod = kv->mod_revision,
                       .version = kv->version,
                       .value = bytes_of(kv->value.data, kv->value.len),
                       .lease = kv->lease};
}

static bool kv_equal(const struct kv *a, const struct kv *b)
{
    return bytes_equal(a->key, b->key) && a->create == b->create && a->mod == b->mod &&
           a->version == b->version && bytes_equal(a->value, b->value) && a->lease == b->lease;
}

/* It is not the next one. Which rule does it break? */
static noreturn void wrong(struct watch *w, const struct kv *kv, bool deleted,
                           const struct model_change *next)
{
    struct model_change told = {.main = kv->mod, .deleted = deleted, .kv = *kv};

    require(wants(w, &told), "watch: filtered", "watch %ld: %.*s at %ld was not asked for",
            LD(w->id), SHOW(kv->key), LD(kv->mod));
    require(kv->mod >= w->next, "watch: unique",
            "watch %ld: %.*s at %ld, but all before %ld was told", LD(w->id), SHOW(kv->key),
            LD(kv->mod), LD(w->next));
    if (!next)
        violated("watch: unique", "watch %ld: %.*s at %ld, where nothing is left to tell",
                 LD(w->id), SHOW(kv->key), LD(kv->mod));
    require(kv->mod >= next->main, "watch: ordered", "watch %ld: %.*s at %ld, next is %.*s at %ld",
            LD(w->id), SHOW(kv->key), LD(kv->mod), SHOW(next->kv.key), LD(next->main));
    violated("watch: reliable", "watch %ld: %.*s at %ld instead of %.*s at %ld", LD(w->id),
             SHOW(kv->key), LD(kv->mod), SHOW(next->kv.key), LD(next->main));
}

/* What a compaction took may be missing. */
static void check_previous(const struct watch *w, const struct model_change *c,
                           const Mvccpb__KeyValue *told)
{
    struct kv before, got;
    bool there = w->request.prev_kv && model_before(c->kv.key, c->main, &before);

    if (!told) {
        require(!there || c->main - 1 < model_compacted(), "watch: filtered",
                "watch %ld: %.*s at %ld without what was before", LD(w->id), SHOW(c->kv.key),
                LD(c->main));
        return;
    }
    got = kv_of(told);
    require(there && kv_equal(&got, &before), "watch: filtered",
            "watch %ld: %.*s at %ld: what was before is another", LD(w->id), SHOW(c->kv.key),
            LD(c->main));
}

static void check_event(struct watch *w, struct bytes encoded, int64_t *ret_main)
{
    Mvccpb__Event *e = mvccpb__event__unpack(NULL, encoded.len, encoded.data);
    struct model_change next;

    require(e && e->kv, "watch: filtered", "watch %ld: an event does not parse", LD(w->id));
    struct kv kv = kv_of(e->kv);
    bool deleted = e->type == MVCCPB__EVENT__EVENT_TYPE__DELETE;
    bool any = next_wanted(w, &next);
    if (!any || next.main != kv.mod || next.deleted != deleted || !bytes_equal(next.kv.key, kv.key))
        wrong(w, &kv, deleted, any ? &next : NULL);
    if (deleted)
        next.kv = (struct kv){.key = next.kv.key, .mod = next.main};
    require(kv_equal(&kv, &next.kv), "watch: filtered", "watch %ld: %.*s at %ld is another",
            LD(w->id), SHOW(kv.key), LD(kv.mod));
    check_previous(w, &next, e->prev_kv);
    w->at++;
    *ret_main = next.main;
    mvccpb__event__free_unpacked(e, NULL);
}

/* ---- responses ---- */

void check_watch_created(struct watch *w, const struct watch_response *r)
{
    require(r->created && !r->canceled == !w->refused, "watch: resumable",
            "watch %ld: created %d, canceled %d (%s)", LD(r->id), r->created, r->canceled,
            r->cancel_reason);
    if (w->refused)
        return;
    require(w->request.id == WATCH_ID_AUTO || r->id == w->request.id, "watch: resumable",
            "watch %ld was asked for as %ld", LD(r->id), LD(w->request.id));
    w->id = r->id;
    w->split = false;
    if (w->next == 0)
        w->next = r->revision + 1;
    w->at = model_find_change(w->next);
}

void check_watch_events(struct watch *w, const struct watch_response *r)
{
    struct model_change next;
    int64_t main = 0;

    for (size_t i = 0; i < r->n_events; i++)
        check_event(w, r->events[i].encoded, &main);
    require(r->revision >= main && r->revision <= model_revision(), "watch: ordered",
            "watch %ld: revision %ld in the header, the last event is of %ld", LD(w->id),
            LD(r->revision), LD(main));
    require(!r->fragment || w->request.fragment, "watch: atomic", "watch %ld: a part", LD(w->id));
    require(r->fragment || !next_wanted(w, &next) || next.main > main, "watch: atomic",
            "watch %ld: the response ends within revision %ld", LD(w->id), LD(main));
    w->split = r->fragment;
    w->next = r->fragment ? main : main + 1;
}

void check_watch_progress(struct watch *w, const struct watch_response *r)
{
    struct model_change next;

    require(r->revision <= model_revision() && !w->split, "watch: bookmarkable",
            "watch %ld: progress to %ld", LD(w->id), LD(r->revision));
    require(!next_wanted(w, &next) || next.main > r->revision, "watch: bookmarkable",
            "watch %ld: progress to %ld, but %.*s at %ld was not told", LD(w->id), LD(r->revision),
            SHOW(next.kv.key), LD(next.main));
    if (w->next <= r->revision)
        w->next = r->revision + 1;
}

void check_watch_compacted(struct watch *w, const struct watch_response *r)
{
    require(r->compact_revision > w->next && r->compact_revision <= model_compacted(),
            "watch: resumable", "watch %ld ends: compacted at %ld, it says; it was at %ld, %s",
            LD(w->id), LD(r->compact_revision), LD(w->next), r->cancel_reason);
}

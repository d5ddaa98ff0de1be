/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Clients that watch (see watchers.h).
 *
 *     turn -> [member's thread] visit: open, ask, take some -> thinks -> turn ...
 *
 * A visit takes nothing before ready() was called, so a call that is missing is found when the run
 * ends with something untold.
 *
 * Thread: the only one; visits run on fibers of the member, one at a time for a stream.
 */
#include "tests/sim/watchers.h"

#include <stdio.h>

#include "base/check.h"
#include "server/server.h"
#include "tests/sim/counters.h"
#include "tests/sim/model.h"

enum { WATCHES_MAX = 4, ASKED_MAX = 16, LEAVES_ONE_IN = 60, HURRY_MS = 10 };

struct viewer {
    struct rng rng;
    uint64_t pace_ns; /* between visits, at most */
    unsigned takes;   /* of a visit, at most */
    struct watch watches[WATCHES_MAX];
    struct watch *asked[ASKED_MAX]; /* in the order of their answers */
    size_t n_asked;

    struct machine *machine; /* where the stream is */
    unsigned life;
    struct watch_stream *stream;
    bool busy; /* a visit is under way, in that life */
    bool ready;
};

static struct {
    struct viewer viewers[CLIENTS_MAX];
    bool hurry;
} all;

static void turn(void *arg);

static bool odds(struct viewer *v, uint64_t one_in)
{
    return rng_below(&v->rng, one_in) == 0;
}

/* ---- what it wants to watch ---- */

static struct bytes write_key(char *out, uint64_t number)
{
    return bytes_of(out, (size_t)snprintf(out, WATCH_KEY_BYTES, "k%02u", (unsigned)number));
}

static void choose_range(struct viewer *v, struct watch *w)
{
    uint64_t n = world.o.n_keys;

    w->request.key = write_key(w->key, rng_below(&v->rng, n));
    w->request.range_end = BYTES_NULL;
    switch (rng_below(&v->rng, 6)) {
    case 0: w->request.range_end = write_key(w->end, rng_below(&v->rng, n)); break;
    case 1: w->request.range_end = BYTES_LIT("\0"); break;
    case 2:
        w->request.key = BYTES_NULL; /* all */
        w->request.range_end = BYTES_LIT("\0");
        break;
    case 3: w->request.range_end = BYTES_LIT("l"); break;
    default: break;
    }
}

/* From what comes next, somewhere in the past, or in the future. */
static int64_t choose_start(struct viewer *v)
{
    int64_t head = model_revision(), back = (int64_t)rng_below(&v->rng, 200);

    switch (rng_below(&v->rng, 6)) {
    case 0:
    case 1: return head > back ? head - back : 1;
    case 2: return head + 1 + back / 20;
    default: return 0;
    }
}

static void choose(struct viewer *v, struct watch *w)
{
    *w = (struct watch){.state = WATCH_IDLE};
    choose_range(v, w);
    w->next = choose_start(v);
    w->request.prev_kv = odds(v, 3);
    w->request.no_put = odds(v, 8);
    w->request.no_delete = odds(v, 5);
    w->request.fragment = odds(v, 2);
    w->request.progress_notify = odds(v, 3);
    w->request.id = odds(v, 4) ? (int64_t)(1 + rng_below(&v->rng, 3)) : WATCH_ID_AUTO;
}

/* ---- asking ---- */

static bool has_id(const struct viewer *v, int64_t id)
{
    for (int i = 0; i < WATCHES_MAX; i++) {
        const struct watch *w = &v->watches[i];
        if (w->state == WATCH_LIVE && w->id == id)
            return true;
    }
    return false;
}

static bool is_empty(const struct watch_request *q)
{
    struct bytes key = q->key.len > 0 ? q->key : bytes_of("", 1);
    bool from = q->range_end.len == 1 && q->range_end.data[0] == 0;

    return q->range_end.len > 0 && !from && bytes_compare(key, q->range_end) >= 0;
}

/* One that is asked for while others are not answered takes no id of its own choice: whether that
 * is free then depends on those. */
static void ask(struct viewer *v, struct watch *w)
{
    if (v->n_asked > 0)
        w->request.id = WATCH_ID_AUTO;
    w->request.start_revision = odds(v, 50) ? -1 : w->next;
    w->refused = w->request.start_revision < 0 || is_empty(&w->request) ||
                 (w->request.id != WATCH_ID_AUTO && has_id(v, w->request.id));
    w->state = WATCH_ASKED;
    w->at = 0;
    check(v->n_asked < ASKED_MAX);
    v->asked[v->n_asked++] = w;
    watch_create(v->stream, &w->request);
}

static void cancel(struct viewer *v, struct watch *w)
{
    w->state = WATCH_CANCELING;
    watch_cancel(v->stream, w->id);
}

/* New ones, and an end or a question now and then. */
static void wish(struct viewer *v)
{
    for (int i = 0; i < WATCHES_MAX; i++) {
        struct watch *w = &v->watches[i];
        if (w->state == WATCH_FREE && odds(v, 4))
            choose(v, w);
        if (w->state == WATCH_IDLE)
            ask(v, w);
        else if (w->state == WATCH_LIVE && !all.hurry && odds(v, 40))
            cancel(v, w);
    }
    if (odds(v, 6))
        watch_progress(v->stream);
}

/* ---- answers ---- */

static struct watch *find(struct viewer *v, int64_t id)
{
    for (int i = 0; i < WATCHES_MAX; i++)
        if (v->watches[i].state >= WATCH_LIVE && v->watches[i].id == id)
            return &v->watches[i];
    violated("watch: filtered", "a response for watch %ld, which is none", (long)id);
}

static void take_created(struct viewer *v, const struct watch_response *r)
{
    require(v->n_asked > 0, "watch: ordered", "nothing was asked for");
    struct watch *w = v->asked[0];

    v->n_asked--;
    memmove(&v->asked[0], &v->asked[1], v->n_asked * sizeof(*v->asked));
    check_watch_created(w, r);
    w->state = w->refused ? WATCH_FREE : WATCH_LIVE;
}

static void take_canceled(struct viewer *v, const struct watch_response *r)
{
    struct watch *w = find(v, r->id);
    bool asked = w->state == WATCH_CANCELING;

    require(asked || r->compact_revision > 0, "watch: resumable", "watch %ld ends: %s", (long)r->id,
            r->cancel_reason);
    if (r->compact_revision == 0) {
        w->state = WATCH_FREE;
        return;
    }
    check_watch_compacted(w, r);
    count(COUNT_WATCHES_COMPACTED, 1);
    if (!asked)
        cancel(v, w); /* until then its id is taken */
}

static void take_progress(struct viewer *v, const struct watch_response *r)
{
    count(COUNT_WATCH_PROGRESS, 1);
    if (r->id != WATCH_ID_NONE) {
        check_watch_progress(find(v, r->id), r);
        return;
    }
    for (int i = 0; i < WATCHES_MAX; i++)
        if (v->watches[i].state == WATCH_LIVE)
            check_watch_progress(&v->watches[i], r);
}

static void take(struct viewer *v, const struct watch_response *r)
{
    if (r->created)
        take_created(v, r);
    else if (r->canceled)
        take_canceled(v, r);
    else if (r->n_events == 0)
        take_progress(v, r);
    else
        check_watch_events(find(v, r->id), r);
    count(COUNT_WATCH_EVENTS, r->n_events);
}

/* ---- streams ---- */

/* Calls nobody, and the hub's lock is held. */
static void is_ready(void *arg)
{
    struct viewer *v = arg;

    v->ready = true;
}

/* What it was told it knows; it goes on from there on another one. */
static void stream_lost(struct viewer *v)
{
    v->stream = NULL;
    v->ready = false;
    v->n_asked = 0;
    for (int i = 0; i < WATCHES_MAX; i++) {
        struct watch *w = &v->watches[i];
        if (w->state == WATCH_CANCELING)
            w->state = WATCH_FREE;
        else if (w->state != WATCH_FREE)
            w->state = WATCH_IDLE;
        if (w->split)
            w->state = WATCH_FREE; /* nobody can say how much of that revision it knows */
    }
}

static void take_some(struct viewer *v)
{
    unsigned n = all.hurry ? UINT32_MAX : (unsigned)rng_below(&v->rng, v->takes + 1);

    while (v->ready && n-- > 0) {
        v->ready = false;
        struct watch_response *r = watch_stream_take(v->stream);
        if (!r)
            break;
        v->ready = true;
        take(v, r);
        watch_response_free(r);
    }
}

static void use_stream(struct viewer *v)
{
    if (!v->stream) {
        count(COUNT_WATCH_STREAMS, 1);
        v->stream = watch_stream_open(server_watch_hub(v->machine->server), is_ready, v);
    }
    if (!watch_stream_is_full(v->stream))
        wish(v);
    take_some(v);
    if (!all.hurry && odds(v, LEAVES_ONE_IN)) {
        watch_stream_close(v->stream);
        stream_lost(v);
    }
}

static void visit(void *arg)
{
    struct viewer *v = arg;

    if (machine_serves(v->machine)) /* it does not stop meanwhile */
        use_stream(v);
    v->busy = false;
    kernel_after(rng_below(&v->rng, all.hurry ? HURRY_MS * MILLISECOND : v->pace_ns), turn, v);
}

static bool has_stream(const struct viewer *v, const struct machine *m)
{
    return v->machine == m && v->stream && v->life == m->lives;
}

static void turn(void *arg)
{
    struct viewer *v = arg;

    if (world.phase == PHASE_DONE)
        return;
    if (!v->stream)
        v->machine = world.machines[1 + rng_below(&v->rng, world.n_machines)];
    if (!machine_serves(v->machine)) {
        kernel_after(between(MILLISECOND, 50 * MILLISECOND), turn, v);
        return;
    }
    v->life = v->machine->lives;
    v->busy = true;
    machine_call(v->machine, visit, v);
}

void watchers_lose(struct machine *m)
{
    for (unsigned i = 0; i < world.o.n_viewers; i++) {
        struct viewer *v = &all.viewers[i];
        if (v->machine != m || v->life != m->lives)
            continue;
        if (v->stream || v->busy)
            stream_lost(v);
        if (v->busy)
            kernel_after(rng_below(&v->rng, 100 * MILLISECOND), turn, v);
        v->busy = false;
    }
}

void watchers_close(struct machine *m)
{
    for (unsigned i = 0; i < world.o.n_viewers; i++) {
        struct viewer *v = &all.viewers[i];
        if (!has_stream(v, m))
            continue;
        struct watch_stream *s = v->stream;
        stream_lost(v);
        watch_stream_close(s);
    }
}

/* ---- all of them ---- */

void watchers_init(void)
{
    memset(&all, 0, sizeof(all));
    for (unsigned i = 0; i < world.o.n_viewers; i++) {
        struct viewer *v = &all.viewers[i];
        rng_init(&v->rng, rng_next(&world.rng));
        v->pace_ns = world.o.view_ns_max >> rng_below(&v->rng, 4);
        v->takes = 1 + (unsigned)rng_below(&v->rng, odds(v, 2) ? 100 : 3);
    }
}

void watchers_start(void)
{
    for (unsigned i = 0; i < world.o.n_viewers; i++)
        kernel_after(rng_below(&world.rng, SECOND), turn, &all.viewers[i]);
}

void watchers_hurry(void)
{
    all.hurry = true;
}

static bool is_done(struct viewer *v, struct watch *w)
{
    return w->state == WATCH_FREE ||
           (v->stream && w->state == WATCH_LIVE && check_watch_is_done(w));
}

bool watchers_done(void)
{
    for (unsigned i = 0; i < world.o.n_viewers; i++)
        for (int k = 0; k < WATCHES_MAX; k++)
            if (!is_done(&all.viewers[i], &all.viewers[i].watches[k]))
                return false;
    return true;
}

void watchers_describe(void)
{
    for (unsigned i = 0; i < world.o.n_viewers; i++) {
        struct viewer *v = &all.viewers[i];
        for (int k = 0; k < WATCHES_MAX; k++) {
            struct watch *w = &v->watches[k];
            char text[200];
            if (is_done(v, w))
                continue;
            snprintf(text, sizeof(text),
                     "viewer %u at m%u: watch %ld of state %d waits for %ld, ready %d", i,
                     v->machine ? v->machine->number : 0, (long)w->id, (int)w->state, (long)w->next,
                     v->ready);
            trace_text(text);
        }
    }
}

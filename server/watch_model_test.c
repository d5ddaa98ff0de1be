/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The watch hub against a list of all events, over random histories: puts, deletes, transactions,
 * several entries in a batch, compactions worked off bit by bit, snapshots that the ring knows
 * nothing of; streams that are opened and closed, read often, seldom or not at all; watchers of
 * keys, ranges and all, from the past, the head and the future, with filters, prev_kv and
 * fragments, canceled and begun anew where they stopped; budgets, rings and slices of all sizes.
 *
 * Of every watcher is checked, response by response:
 *   ordered, unique, reliable, filtered: its events are those of the list that it wants, one by
 *     one, from its start on, with the right contents and previous value
 *   atomic: no revision is split between two responses, fragments of one aside
 *   resumable: begun anew behind the last event it misses nothing
 *   bookmarkable: behind a progress notification comes nothing at or below its revision, of any
 *     watcher of the stream if it was for all
 * and that a compaction cancels those it has overtaken, and nobody who was never behind.
 *
 * The seed is printed if a history fails; MODEL_SEED=n runs that one alone.
 */
#include "server/test_watch.h"

#include "base/log.h"

enum {
    HISTORIES = 500,
    STEPS = 600,
    KEYS = 8,
    STREAMS = 6,
    WATCHERS = 24, /* of one stream, since it was opened */
    EVENTS_MAX = 8192,
    ROUNDS_MAX = 100000,
};

static const char *const keys[KEYS] = {"a", "aa", "ab", "b", "ba", "c", "d", "dd"};

struct event {
    int64_t main;
    bool deleted;
    int key;
    uint32_t value;
    int64_t create, version;
    int previous; /* index of the put before; -1: there is none */
};

struct model_watcher {
    struct watch_request request;
    bool used, created, canceled, dropped; /* dropped: cancel was asked for */
    bool must_cancel;
    int next;          /* event that it is to see next, or one that it does not want */
    int64_t progress;  /* the highest notification */
    int64_t last_main; /* of the last response, if it was not a fragment */
    bool in_fragments;
};

struct model_stream {
    struct watch_client client;
    bool open;
    unsigned laziness; /* reads once in so many */
    struct model_watcher watchers[WATCHERS];
    size_t n;
};

struct model {
    struct watch_box *b;
    struct rng rng;
    uint64_t seed;
    int step;
    struct event events[EVENTS_MAX];
    int n_events;
    int live[KEYS]; /* the event that put it; -1 */
    int64_t revision, compacted;
    struct model_stream streams[STREAMS];
    bool roomy; /* nobody is ever parked, the ring holds everything */
    size_t n_canceled, n_seen, n_progress;
};

#define expect(m, x)                                                                               \
    do {                                                                                           \
        if (!(x)) {                                                                                \
            print_error("seed %" PRIu64 ", step %d: %s\n", (m)->seed, (m)->step, #x);              \
            fail();                                                                                \
        }                                                                                          \
    } while (0)

static uint64_t below(struct model *m, uint64_t n)
{
    return rng_below(&m->rng, n);
}

static bool one_in(struct model *m, uint64_t n)
{
    return below(m, n) == 0;
}

/* ---- writes ---- */

static struct bytes value_bytes(const uint32_t *value)
{
    return bytes_of(value, sizeof(*value));
}

static void note(struct model *m, int key, bool deleted, uint32_t value)
{
    int before = m->live[key];
    struct event *e = &m->events[m->n_events];
    const struct event *old = before >= 0 ? &m->events[before] : NULL;

    *e = (struct event){.main = m->revision,
                        .deleted = deleted,
                        .key = key,
                        .value = value,
                        .create = old ? old->create : m->revision,
                        .version = old ? old->version + 1 : 1,
                        .previous = before};
    m->live[key] = deleted ? -1 : m->n_events;
    m->n_events++;
}

static void write_key(struct model *m, int key)
{
    uint32_t value = (uint32_t)below(m, UINT32_MAX);

    if (m->live[key] >= 0 && one_in(m, 3)) {
        expect(m, entry_delete(m->b, bytes_str(keys[key])));
        note(m, key, true, 0);
    } else {
        entry_put(m->b, bytes_str(keys[key]), value_bytes(&value));
        note(m, key, false, value);
    }
}

static void write_entry(struct model *m)
{
    int n = one_in(m, 3) ? 1 + (int)below(m, KEYS - 1) : 1, first = (int)below(m, KEYS);

    entry_begin(m->b);
    m->revision++;
    for (int i = 0; i < n; i++)
        write_key(m, (first + i) % KEYS);
    mvcc_end(m->b->store.mvcc);
}

static void write_batch(struct model *m)
{
    if (m->n_events > EVENTS_MAX - 4 * KEYS)
        return;
    for (uint64_t n = 1 + below(m, 3); n > 0; n--)
        write_entry(m);
    batch_write(m->b, m->roomy || !one_in(m, 25));
    expect(m, mvcc_revision(m->b->store.mvcc) == m->revision);
}

static void compact_some(struct model *m)
{
    int64_t lowest = m->compacted > 0 ? m->compacted : 1, finished;
    bool done;

    if (lowest < m->revision && one_in(m, 6)) {
        m->compacted = lowest + 1 + (int64_t)below(m, (uint64_t)(m->revision - lowest));
        expect(m, mvcc_compact(m->b->store.mvcc, m->compacted, false) == 0);
        batch_write(m->b, true);
    }
    expect(m, mvcc_compact_step(m->b->store.mvcc, &done, &finished) == 0);
}

/* ---- what clients ask for ---- */

static struct model_watcher *watcher_find(struct model_stream *s, int64_t id)
{
    for (size_t i = s->n; i > 0; i--)
        if (s->watchers[i - 1].request.id == id)
            return &s->watchers[i - 1];
    return NULL;
}

static bool wants(const struct watch_request *q, const struct event *e)
{
    struct bytes key = bytes_str(keys[e->key]);
    struct bytes end = q->range_end;

    if (e->main < q->start_revision || (e->deleted ? q->no_delete : q->no_put))
        return false;
    if (end.len == 0)
        return bytes_equal(key, q->key);
    return bytes_compare(key, q->key) >= 0 &&
           ((end.len == 1 && end.data[0] == 0) || bytes_compare(key, end) < 0);
}

static int first_event_at(const struct model *m, int64_t revision)
{
    int i = 0;

    while (i < m->n_events && m->events[i].main < revision)
        i++;
    return i;
}

static struct watch_request random_request(struct model *m)
{
    static const char *const ends[] = {NULL, "\0", "b", "c", "z", "ab"};
    struct watch_request q = {.key = bytes_str(keys[below(m, KEYS)])};
    const char *end = ends[below(m, 6)];

    if (end)
        q.range_end = end[0] ? bytes_str(end) : bytes_of("", 1);
    q.no_put = one_in(m, 6);
    q.no_delete = one_in(m, 6);
    q.prev_kv = one_in(m, 3);
    q.fragment = one_in(m, 4);
    q.progress_notify = one_in(m, 2);
    switch (below(m, 4)) {
    case 0: q.start_revision = 1 + (int64_t)below(m, (uint64_t)m->revision); break;
    case 1: q.start_revision = m->revision + (int64_t)below(m, 30); break;
    default: break;
    }
    return q;
}

static void create_with(struct model *m, struct model_stream *s, struct watch_request q)
{
    bool empty = q.range_end.len > 0 && !(q.range_end.len == 1 && q.range_end.data[0] == 0) &&
                 bytes_compare(q.key, q.range_end) >= 0;
    struct model_watcher *w = &s->watchers[s->n];

    if (s->n == WATCHERS || empty)
        return;
    q.id = (int64_t)s->n + 1;
    watch_create(s->client.stream, &q);
    *w = (struct model_watcher){.request = q, .used = true};
    w->must_cancel =
        q.start_revision > 0 && q.start_revision <= m->revision && q.start_revision < m->compacted;
    w->next = first_event_at(m, q.start_revision > 0 ? q.start_revision : m->revision + 1);
    s->n++;
}

static void cancel_some(struct model *m, struct model_stream *s, bool anew)
{
    struct model_watcher *w;
    struct watch_request q;

    if (s->n == 0)
        return;
    w = &s->watchers[below(m, s->n)];
    if (w->dropped || w->canceled)
        return;
    watch_cancel(s->client.stream, w->request.id);
    w->dropped = true;
    if (!anew || w->in_fragments)
        return;
    q = w->request;
    if (w->last_main > 0)
        q.start_revision = w->last_main + 1;
    create_with(m, s, q);
}

static void open_or_close(struct model *m, struct model_stream *s)
{
    if (s->open) {
        watch_stream_close(s->client.stream);
    } else {
        *s = (struct model_stream){.laziness = 1u << below(m, 7)};
        client_open(&s->client, m->b);
    }
    s->open = !s->open;
}

static void tick_all(struct model *m)
{
    struct heap *ticks = &m->b->hub->ticks;
    size_t n = ticks->len;
    _cleanup_(mem_freep) struct heap_node **nodes = mem_alloc(n * sizeof(struct heap_node *) + 1);

    for (size_t i = 0; i < n; i++)
        nodes[i] = ticks->nodes[i];
    for (size_t i = 0; i < n; i++) {
        heap_remove(ticks, nodes[i]);
        heap_push(ticks, nodes[i], 0);
    }
}

/* ---- what clients get ---- */

static void check_put(struct model *m, const struct event *e, const Mvccpb__KeyValue *kv)
{
    expect(m, kv->mod_revision == e->main && kv->create_revision == e->create);
    expect(m, kv->version == e->version);
    expect(m, bytes_equal(bytes_of(kv->value.data, kv->value.len), value_bytes(&e->value)));
}

/* It may be missing only if a compaction has passed the revision before. */
static void check_previous(struct model *m, const struct event *e, bool wanted,
                           const Mvccpb__KeyValue *kv)
{
    if (!wanted || e->previous < 0)
        expect(m, !kv);
    else if (kv)
        check_put(m, &m->events[e->previous], kv);
    else
        expect(m, e->main - 1 < m->compacted);
}

static void check_event(struct model *m, struct model_watcher *w, struct bytes encoded)
{
    Mvccpb__Event *got = mvccpb__event__unpack(NULL, encoded.len, encoded.data);
    const struct event *e;

    while (w->next < m->n_events && !wants(&w->request, &m->events[w->next]))
        w->next++;
    expect(m, got && w->next < m->n_events);
    e = &m->events[w->next++];
    expect(m, (got->type == MVCCPB__EVENT__EVENT_TYPE__DELETE) == e->deleted);
    expect(m, bytes_equal(bytes_of(got->kv->key.data, got->kv->key.len), bytes_str(keys[e->key])));
    if (e->deleted)
        expect(m, got->kv->mod_revision == e->main && got->kv->value.len == 0);
    else
        check_put(m, e, got->kv);
    check_previous(m, e, w->request.prev_kv, got->prev_kv);
    expect(m, e->main > w->progress);
    expect(m, e->main > w->last_main || (w->in_fragments && e->main == w->last_main));
    m->n_seen++;
    mvccpb__event__free_unpacked(got, NULL);
}

/* The next event that it wants is of a later revision. */
static void check_whole(struct model *m, struct model_watcher *w)
{
    int64_t main = m->events[w->next - 1].main;

    for (int i = w->next; i < m->n_events && m->events[i].main == main; i++)
        expect(m, !wants(&w->request, &m->events[i]));
    w->last_main = main;
}

static void check_events(struct model *m, struct model_watcher *w, const struct watch_response *r)
{
    int64_t before = w->last_main;

    expect(m, w->created && !w->canceled && !w->must_cancel);
    expect(m, !r->fragment || w->request.fragment);
    for (size_t i = 0; i < r->n_events; i++) {
        check_event(m, w, r->events[i].encoded);
        w->last_main = before;
    }
    expect(m, r->revision >= m->events[w->next - 1].main && r->revision <= m->revision);
    if (r->fragment)
        w->last_main = m->events[w->next - 1].main - 1;
    else
        check_whole(m, w);
    w->in_fragments = r->fragment;
}

/* All that it wants up to there it has got. */
static void check_bookmark(struct model *m, struct model_watcher *w, int64_t revision)
{
    int i = w->next;

    if (!w->used || w->canceled || w->dropped)
        return;
    expect(m, w->created && w->request.start_revision <= revision);
    for (; i < m->n_events && m->events[i].main <= revision; i++)
        expect(m, !wants(&w->request, &m->events[i]));
    w->progress = revision > w->progress ? revision : w->progress;
}

static void check_canceled(struct model *m, struct model_watcher *w, const struct watch_response *r)
{
    if (r->compact_revision == 0) {
        expect(m, w->dropped && r->revision > 0);
        w->canceled = true;
        return;
    }
    expect(m, !w->canceled && r->revision == 0 && r->compact_revision <= m->compacted);
    expect(m, !m->roomy || w->must_cancel ||
                  (w->request.start_revision > 0 && w->request.start_revision < m->compacted));
    w->canceled = !w->dropped;
    m->n_canceled++;
}

static void check_answer(struct model *m, struct model_stream *s, const struct watch_response *r)
{
    struct model_watcher *w = watcher_find(s, r->id);

    if (r->id == WATCH_ID_NONE) {
        expect(m, !r->created && !r->canceled);
        for (size_t i = 0; i < s->n; i++)
            if (s->watchers[i].created)
                check_bookmark(m, &s->watchers[i], r->revision);
        m->n_progress++;
        return;
    }
    expect(m, w);
    if (r->created) {
        expect(m, !w->created && !r->canceled && r->revision <= m->revision);
        w->created = true;
    } else if (r->canceled) {
        check_canceled(m, w, r);
    } else {
        expect(m, w->request.progress_notify);
        check_bookmark(m, w, r->revision);
        m->n_progress++;
    }
}

static bool take_one(struct model *m, struct model_stream *s)
{
    struct watch_response *r = watch_stream_take(s->client.stream);

    if (!r)
        return false;
    if (r->n_events > 0) {
        struct model_watcher *w = watcher_find(s, r->id);
        expect(m, w);
        check_events(m, w, r);
    } else {
        check_answer(m, s, r);
    }
    watch_response_free(r);
    return true;
}

/* ---- histories ---- */

/* The clock of rounds and turns: each thing that it says comes to pass, or not. */
static void set_clock(struct model *m)
{
    const uint64_t never = UINT64_MAX / 2;
    struct watch_turns *t = &m->b->hub->turns;

    t->round_ns = one_in(m, 2) ? 0 : never;
    t->given_ns = one_in(m, 2) ? 0 : never;
    t->open_ns = one_in(m, 2) ? 1 : never;
    if (one_in(m, 2))
        skip_rest(m->b->hub);
}

static void turn(struct model *m)
{
    set_clock(m);
    m->b->hub->reclaimed_ms = 0;
    expect(m, watch_hub_turn(m->b->hub) >= 0);
}

static void ask(struct model *m, struct model_stream *s)
{
    switch (below(m, 10)) {
    case 0: cancel_some(m, s, false); break;
    case 1: cancel_some(m, s, true); break;
    case 2:
    case 3:
    case 4: watch_progress(s->client.stream); break;
    case 5: tick_all(m); break;
    default: create_with(m, s, random_request(m)); break;
    }
}

static void step(struct model *m)
{
    struct model_stream *s = &m->streams[below(m, STREAMS)];

    switch (below(m, 14)) {
    case 0:
    case 1:
    case 2: write_batch(m); break;
    case 3: compact_some(m); break;
    case 4:
        if (one_in(m, 8) || !s->open)
            open_or_close(m, s);
        break;
    case 5:
    case 6:
        if (s->open)
            ask(m, s);
        break;
    case 7:
    case 8:
    case 9: turn(m); break;
    default:
        for (int i = 0; s->open && one_in(m, s->laziness) && i < 20 && take_one(m, s); i++)
            ;
        break;
    }
}

static bool everything_read(struct model *m)
{
    bool more = watch_hub_turn(m->b->hub) > 0 || m->b->hub->starved || skip_pause(m->b) ||
                skip_rest(m->b->hub);

    for (size_t i = 0; i < STREAMS; i++)
        while (m->streams[i].open && take_one(m, &m->streams[i]))
            more = true;
    return !more;
}

static void check_end(struct model *m, const struct model_watcher *w)
{
    expect(m, w->created);
    if (w->dropped || w->canceled)
        return;
    expect(m, !w->must_cancel && !w->in_fragments);
    for (int i = w->next; i < m->n_events; i++)
        expect(m, !wants(&w->request, &m->events[i]));
}

static void finish(struct model *m)
{
    int rounds = 0, quiet = 0;

    while (quiet < 2) { /* finding nothing to take may make the hub go on */
        m->b->hub->reclaimed_ms = 0;
        quiet = everything_read(m) ? quiet + 1 : 0;
        expect(m, ++rounds < ROUNDS_MAX);
    }
    for (size_t i = 0; i < STREAMS; i++) {
        struct model_stream *s = &m->streams[i];
        for (size_t k = 0; s->open && k < s->n; k++)
            check_end(m, &s->watchers[k]);
        if (s->open)
            watch_stream_close(s->client.stream);
    }
}

static void begin(struct model *m, uint64_t seed)
{
    struct watch_hub_options tuning = {.seed = seed};

    *m = (struct model){.seed = seed, .revision = 1, .compacted = -1};
    rng_init(&m->rng, seed);
    for (size_t i = 0; i < KEYS; i++)
        m->live[i] = -1;
    m->roomy = one_in(m, 4);
    if (!m->roomy) {
        tuning.ring_bytes = 1 + below(m, 20) * 500;
        tuning.stream_bytes_max = 1 + below(m, 4000);
        tuning.bytes_max = 2000 + below(m, 20000);
        tuning.taken_bytes_max = 1 + below(m, 4000);
        tuning.taken_bytes_min = 1 + below(m, 100);
    }
    tuning.held_revisions_max = m->roomy ? INT64_MAX : 1 + (int64_t)below(m, 40);
    tuning.turns_max = m->roomy ? SIZE_MAX : 1 + below(m, 4);
    tuning.slice_events_max = 1 + below(m, 30);
    tuning.near = 1 + below(m, 30);
    tuning.work_ns = one_in(m, 2);
    tuning.response_bytes_max = 30 + below(m, 300);
    m->b = watch_box_new(&tuning);
}

static void run(struct model *m, uint64_t seed)
{
    begin(m, seed);
    for (m->step = 0; m->step < STEPS; m->step++)
        step(m);
    finish(m);
    watch_box_free(m->b);
}

static void test_histories(void **state)
{
    static struct model m;
    const char *only = getenv("MODEL_SEED");
    size_t canceled = 0, seen = 0, progress = 0;

    if (only) {
        run(&m, strtoull(only, NULL, 10));
        return;
    }
    for (uint64_t seed = 1; seed <= HISTORIES; seed++) {
        run(&m, seed);
        canceled += m.n_canceled;
        seen += m.n_seen;
        progress += m.n_progress;
    }
    print_message("%zu events, %zu notifications, %zu compacted\n", seen, progress, canceled);
    assert_true(canceled > HISTORIES / 4 && seen > HISTORIES * 50 && progress > HISTORIES);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_histories),
    };

    log_level_min = LOG_ERROR;
    return cmocka_run_group_tests(tests, NULL, NULL);
}

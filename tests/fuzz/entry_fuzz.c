/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Committed entries of any bytes, as a hostile or a newer member could put them into the log. The
 * input: a byte of settings, then entries { kind 1, length varint, payload }; they come behind some
 * of ours, so that there are members, keys and a lease to act on.
 *
 * Properties:
 *   an entry is applied, or the turn ends in an error that was logged: never in an abort
 *   all in one turn and one in each turn come to the same error, or to the same database
 *   what was applied can be opened again and says the same; raft takes each change of members
 *   whoever waits is answered once
 */
#include "base/check.h"
#include "raft/conf.h"
#include "storage/db_mem.h"
#include "tests/fuzz/entry_side.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/fuzz_store.h"

enum { ENTRIES_MAX = 32, TERM = 3 };

struct entries {
    struct raft_entry items[ENTRIES_MAX];
    size_t n;
    uint8_t settings;
};

/* ---- applying ---- */

static int apply_whole(struct side *s, const struct entries *e)
{
    apply_push_entries(s->apply, e->items, e->n);
    return apply_turn(s->apply);
}

/* On the raft thread where it is taken. */
static int apply_each(struct side *s, const struct entries *e)
{
    int r = 0;

    for (size_t i = 0; i < e->n && r == 0; i++) {
        if (apply_now(s->apply, &e->items[i], 1, &r))
            continue;
        apply_push_entries(s->apply, &e->items[i], 1);
        r = apply_turn(s->apply);
        if (r == 0)
            side_take_events(s);
    }
    return r;
}

/* Who votes raft takes from the type of a change, the table from its context; who is a member is
 * the same in both. */
static void check_members(struct side *s)
{
    const struct raft_conf_state *known = raft_conf(s->raft);
    struct raft_conf_state conf;

    members_conf(s->store.members, &conf);
    check(known->voters.len + known->learners.len == conf.voters.len + conf.learners.len);
    for (size_t i = 0; i < conf.voters.len; i++)
        check(conf_is_member(known, conf.voters.ids[i]));
    for (size_t i = 0; i < conf.learners.len; i++)
        check(conf_is_member(known, conf.learners.ids[i]));
    raft_conf_state_clear(&conf);
}

static void check_restart(struct side *s)
{
    _cleanup_(buf_deinit) struct buf before = BUF_NULL, after = BUF_NULL;
    struct raft_conf_state conf;

    fuzz_store_describe(&s->store, &before);
    check(db_flush(s->store.db) == 0);
    store_close(&s->store);
    check(store_open(&s->store, &s->options) == 0);
    fuzz_store_describe(&s->store, &after);
    check(bytes_equal(buf_bytes(&before), buf_bytes(&after)));
    members_conf(s->store.members, &conf);
    raft_free(s->raft);
    s->raft = side_raft(&conf);
    raft_conf_state_clear(&conf);
}

static void check_same(struct side *a, struct side *b)
{
    check(atomic_load(&a->state.applied) == atomic_load(&b->state.applied));
    check(fuzz_store_equal(&a->store, &b->store));
    side_take_events(a);
    side_compact(a);
    side_compact(b);
    check(fuzz_store_equal(&a->store, &b->store));
}

static void entries_parse(struct bytes in, struct entries *ret)
{
    uint64_t index = side_first_index(), term = TERM, len;

    ret->n = 0;
    ret->settings = in.len > 0 ? in.data[0] : 0;
    in = bytes_of(in.data + (in.len > 0), in.len - (in.len > 0));
    while (in.len > 0 && ret->n < ENTRIES_MAX) {
        uint8_t kind = in.data[0];
        in = bytes_of(in.data + 1, in.len - 1);
        if (!varint_get(&in, &len) || len > in.len)
            len = in.len;
        term += kind >> 7;
        ret->items[ret->n++] =
            (struct raft_entry){.term = term,
                                .index = index++,
                                .type = (enum raft_entry_type)(kind % 3),
                                .data = blob_copy(bytes_of(in.data, (size_t)len))};
        in = bytes_of(in.data + len, in.len - (size_t)len);
    }
}

static void one(const struct entries *e)
{
    struct side *whole = side_new("/fuzz/whole", e->settings, NULL);
    struct side *each = side_new("/fuzz/each", e->settings, NULL);
    uint64_t errors = fuzz_log_errors();
    int r = apply_whole(whole, e);

    check(r <= 0 && (r == 0 || fuzz_log_errors() > errors));
    check(apply_each(each, e) == r);
    if (r == 0) {
        check_same(whole, each);
        if (!whole->raft_refused)
            check_members(whole);
        check_restart(each);
    }
    side_free(whole, r == 0);
    side_free(each, r == 0);
    db_mem_forget();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct entries e;

    entries_parse(bytes_of(data, size), &e);
    one(&e);
    for (size_t i = 0; i < e.n; i++)
        blob_unref(e.items[i].data);
    return 0;
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * For tests of leases: keep-alives that remember how they ended, questions for the time left, and
 * the tick that members without threads don't have. The test links with -Wl,--wrap=clock_mono_ns
 * and says what time it is.
 */
#pragma once

#include "base/clock.h"
#include "server/lease_ask.h"
#include "server/lease_expire.h"
#include "server/lessor.h"
#include "server/test_box.h"

static uint64_t test_now_ns = UINT64_C(1000000000000);

uint64_t __wrap_clock_mono_ns(void);
uint64_t __wrap_clock_mono_ns(void)
{
    return test_now_ns;
}

struct renewal {
    struct lease_renewal r;
    int outcome; /* CALL_WAITS until finished */
    int64_t ttl_s;
    unsigned n_finished;
};

static inline void renewal_finish(struct lease_renewal *r, enum outcome outcome, int64_t ttl_s)
{
    struct renewal *x = container_of(r, struct renewal, r);

    x->outcome = (int)outcome;
    x->ttl_s = ttl_s;
    x->n_finished++;
}

static inline void renew_begin(struct server *s, struct renewal *x, int64_t id)
{
    *x = (struct renewal){.r = {.id = id, .finish = renewal_finish}, .outcome = CALL_WAITS};
    server_lease_renew(s, &x->r);
}

static inline void left_begin(struct server *s, struct call *call, int64_t id, bool keys)
{
    Etcdserverpb__LeaseTimeToLiveRequest q = ETCDSERVERPB__LEASE_TIME_TO_LIVE_REQUEST__INIT;

    q.id = id;
    q.keys = keys;
    call_init(call, REQUEST_LEASE_TIME_TO_LIVE, BYTES_NULL);
    server_lease_time_to_live(s, &call->request, &q);
}

/* "TTL/granted keys" of an answered question; the response is freed. */
static inline char *left_text(struct call *call)
{
    Etcdserverpb__LeaseTimeToLiveResponse *m = etcdserverpb__lease_time_to_live_response__unpack(
        NULL, call->request.response.len, call->request.response.data);
    struct buf out = BUF_NULL;

    check(call->n_finished == 1 && m && m->header && m->header->raft_term > 0);
    buf_printf(&out, "%" PRId64 "/%" PRId64, m->ttl, m->grantedttl);
    for (size_t i = 0; i < m->n_keys; i++)
        buf_printf(&out, " %.*s", (int)m->keys[i].len, (const char *)m->keys[i].data);
    etcdserverpb__lease_time_to_live_response__free_unpacked(m, NULL);
    call_deinit(call);
    char *text = mem_strdup(buf_cstr(&out));
    buf_deinit(&out);
    return text;
}

/* What the server's ticker does about leases, and about requests whose time is over. */
static inline void lease_tick(struct server *s)
{
    wait_expire(&s->wait, clock_mono_ms(), server_timeout_outcome, s);
    lease_expiry_tick(s->lease_expiry);
    lease_asks_tick(s->lease_asks);
}

static inline bool key_is_there(struct server *s, const char *key)
{
    struct mvcc_range_options options = {.interval = interval_parse(bytes_str(key), BYTES_NULL),
                                         .count_only = true};
    struct mvcc_range_result result;

    check(mvcc_range(s->store.mvcc, &options, NULL, NULL, &result) == 0);
    return result.count > 0;
}

static inline bool lease_is_there(struct server *s, int64_t id)
{
    return lease_exists(s->store.leases, id);
}

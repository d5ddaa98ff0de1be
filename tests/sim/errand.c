/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fetches (see errand.h): the request takes its time to the first machine of its URLs that is
 * reached, is answered there as api/peer_route.c would answer it, and the answer takes its time
 * back. Whatever dies on the way, the fetch ends at its time-out.
 *
 * Thread: the only one; parts run on fibers of the members.
 */
#include "tests/sim/errand.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/mem.h"
#include "server/lease_wire.h"
#include "server/lessor.h"
#include "server/peer_door.h"
#include "tests/sim/network.h"

#define PROMOTE_PREFIX "/members/promote/"

struct errand {
    struct list link;              /* in those that are not answered */
    struct transport_fetch *fetch; /* the sender's, while it lives */
    struct machine *from, *to;
    unsigned from_life;
    struct server *server; /* that is asked */
    unsigned refs;         /* its way, and the time-out */
    bool answered;
    struct request request; /* of the one who is asked */
    int status;
    uint64_t cluster_id;
    struct buf answer;
};

static struct list errands;

void errands_init(void)
{
    list_init(&errands);
}

static bool is_wanted(const struct errand *e)
{
    return !e->answered && e->from->process.alive && e->from->lives == e->from_life;
}

static void errand_unref(struct errand *e)
{
    if (--e->refs > 0)
        return;
    list_remove(&e->link);
    buf_deinit(&e->answer);
    free(e);
}

/* ---- the way back ---- */

static void done_main(void *arg)
{
    struct errand *e = arg;

    e->fetch->done(e->fetch);
    errand_unref(e);
}

/* The answer, or the end of waiting for it. */
static void comes_back(void *arg)
{
    struct errand *e = arg;

    if (!is_wanted(e)) {
        errand_unref(e);
        return;
    }
    e->answered = true;
    list_remove(&e->link);
    e->fetch->status = e->status;
    e->fetch->cluster_id = e->cluster_id;
    if (e->status)
        e->fetch->answer = buf_take(&e->answer);
    machine_call(e->from, done_main, e);
}

static void send_back(struct errand *e, int status)
{
    struct server_info info;

    server_info(e->server, &info);
    e->cluster_id = info.cluster_id;
    e->status = status;
    kernel_after(network_latency(), comes_back, e);
}

/* ---- answers ---- */

static void answer_version(struct errand *e)
{
    struct server_info info;

    server_info(e->server, &info);
    const char *cluster = info.cluster_version;
    buf_printf(&e->answer, "{\"etcdserver\":\"%s\",\"etcdcluster\":\"%s\",\"storage\":\"%s\"}",
               SERVER_COMPATIBLE_VERSION, cluster[0] ? cluster : "not_decided",
               cluster[0] ? cluster : "unknown");
    send_back(e, 200);
}

static void promoted(struct request *request, enum outcome outcome)
{
    struct errand *e = container_of(request, struct errand, request);
    bool json;
    int status = server_peer_promote_answer(request, outcome, &e->answer, &json);

    buf_deinit(&request->response);
    send_back(e, status);
}

static void may_downgrade(struct request *request, enum outcome outcome)
{
    struct errand *e = container_of(request, struct errand, request);
    bool enabled = outcome == OUTCOME_OK && server_peer_downgrade_enabled(e->server);

    buf_printf(&e->answer, enabled ? "true" : "false");
    send_back(e, outcome == OUTCOME_OK ? 200 : 500);
}

/* As api/peer_lease.c. */
static void lease_answered(struct request *request, enum outcome outcome)
{
    struct errand *e = container_of(request, struct errand, request);

    e->answer = buf_take(&request->response);
    switch (outcome) {
    case OUTCOME_OK: send_back(e, 200); break;
    case OUTCOME_LEASE_NOT_FOUND: send_back(e, 404); break;
    case OUTCOME_TIMEOUT_WAIT_APPLIED: send_back(e, 408); break;
    default: send_back(e, 500); break;
    }
}

static void answer_renewal(struct errand *e)
{
    int64_t id;

    check(lease_wire_renew_read(e->fetch->body, &id));
    e->request = (struct request){.kind = REQUEST_LEASE_RENEW, .finish = lease_answered};
    server_peer_lease_renew(e->server, &e->request, id);
}

static void answer_time_left(struct errand *e)
{
    struct lease_wire_question q;

    check(lease_wire_question_read(e->fetch->body, &q));
    e->request = (struct request){.kind = REQUEST_LEASE_TIME_TO_LIVE, .finish = lease_answered};
    server_peer_lease_time_to_live(e->server, &e->request, q.id, q.keys);
}

static void answer_main(void *arg)
{
    struct errand *e = arg;
    const char *path = is_wanted(e) ? e->fetch->path : "";

    if (strcmp(path, "/members") == 0) {
        server_peer_members(e->server, &e->answer);
        send_back(e, 200);
    } else if (strcmp(path, "/version") == 0) {
        answer_version(e);
    } else if (strncmp(path, PROMOTE_PREFIX, strlen(PROMOTE_PREFIX)) == 0) {
        e->request = (struct request){.finish = promoted};
        server_promote_member(e->server, &e->request,
                              strtoull(path + strlen(PROMOTE_PREFIX), NULL, 10));
    } else if (strcmp(path, "/downgrade/enabled") == 0) {
        e->request = (struct request){.kind = REQUEST_READ_INDEX, .finish = may_downgrade};
        server_read_index(e->server, &e->request);
    } else if (strcmp(path, LEASE_WIRE_RENEW_PATH) == 0) {
        answer_renewal(e);
    } else if (strcmp(path, LEASE_WIRE_LEFT_PATH) == 0) {
        answer_time_left(e);
    } else {
        errand_unref(e);
    }
}

/* ---- the way there ---- */

static unsigned number_of_url(const char *url)
{
    unsigned number = 0;

    return sscanf(url, "http://10.0.0.%u:", &number) == 1 && number <= MACHINES_MAX ? number : 0;
}

static void arrives(void *arg)
{
    struct errand *e = arg;

    for (size_t i = 0; is_wanted(e) && i < e->fetch->n_urls; i++) {
        struct machine *to = world.machines[number_of_url(e->fetch->urls[i])];
        if (!to || !network_answers(e->from, to))
            continue;
        e->to = to;
        e->server = to->server;
        machine_call(to, answer_main, e);
        return;
    }
    comes_back(e);
}

void errand_send(struct machine *from, struct transport_fetch *f)
{
    struct errand *e = mem_new(struct errand);

    e->fetch = f;
    e->from = from;
    e->from_life = from->lives;
    e->refs = 2;
    list_push(&errands, &e->link);
    kernel_after(f->timeout_ms * MILLISECOND, comes_back, e);
    kernel_after(network_latency(), arrives, e);
}

static struct errand *errand_of(const struct machine *m)
{
    list_for_each (link, &errands) {
        struct errand *e = container_of(link, struct errand, link);
        if (e->from == m && e->from_life == m->lives)
            return e;
    }
    return NULL;
}

/* Looks anew each time: done() may wait for a lock, and meanwhile others' errands end. */
void errands_stop(struct machine *m)
{
    struct errand *e;

    while ((e = errand_of(m)) != NULL) {
        e->answered = true;
        list_remove(&e->link);
        e->fetch->done(e->fetch);
    }
}

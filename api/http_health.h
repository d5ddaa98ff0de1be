/* SPDX-License-Identifier: Apache-2.0 */
/*
 * etcd's health checks behind /health, /livez and /readyz, as a state machine that waits for its
 * linearizable read without holding a thread.
 *
 *   health_begin ──> health_run ──0──> the answer is in status and text
 *                       ▲   └──HEALTH_WAIT──> (request under way) ──finish──> health_resume ──┐
 *                       └─────────────────────────────────────────────────────────────────────┘
 *
 * Thread: one, but finish() comes on any.
 */
#pragma once

#include "server/server.h"

enum { HEALTH_WAIT = 1 };

enum health_kind { HEALTH_HEALTH, HEALTH_LIVEZ, HEALTH_READYZ };

struct health {
    enum health_kind kind;
    unsigned checks; /* bits of those still to do */
    unsigned total;  /* those asked for */
    unsigned failed;
    bool serializable; /* /health only */
    bool exclude_no_space;
    bool exclude_corrupt;
    bool verbose;
    struct buf text; /* the answer's body */
    int status;      /* HTTP's */
    struct request request;
};

/* set: "livez" or "readyz". */
bool health_check_exists(const char *set, const char *check);
/* check: "" for all of the kind, or the name of one that exists. finish is put into the request. */
void health_begin(struct health *h, enum health_kind kind, const char *check, struct bytes query,
                  void (*finish)(struct request *request, enum outcome outcome));
int health_run(struct health *h, struct server *server);
void health_resume(struct health *h, struct server *server, enum outcome outcome);
void health_deinit(struct health *h); /* not while a request is under way */
void health_metrics_register(void);

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Clients that watch: each has one stream at one member, as api/ would open it, with a few watches.
 * It reads when it likes to, and goes on elsewhere, from where it was, when its member is gone.
 * What it is told is compared with the model event by event (check_watch.c).
 */
#pragma once

#include "server/watch_hub.h"
#include "tests/sim/machine.h"

enum { WATCH_KEY_BYTES = 8 };

enum watch_state {
    WATCH_FREE,
    WATCH_IDLE,  /* is to be asked for (again) */
    WATCH_ASKED, /* on this stream, and not answered */
    WATCH_LIVE,
    WATCH_CANCELING, /* it was asked to end */
};

struct watch {
    enum watch_state state;
    struct watch_request request; /* its keys lie behind */
    char key[WATCH_KEY_BYTES], end[WATCH_KEY_BYTES];
    bool refused; /* is to be */
    int64_t id;
    int64_t next; /* all events before that revision were told; 0: it begins with what comes */
    size_t at;    /* the first change in the model that was not told or passed over */
    bool split;   /* the last response was a part */
};

void watchers_init(void);
void watchers_start(void);
/* The member's process is gone. */
void watchers_lose(struct machine *m);
/* An orderly stop: its streams are closed; on a fiber of the member. */
void watchers_close(struct machine *m);
/* Everybody reads at once from now on. */
void watchers_hurry(void);
/* Each has been told everything that has happened. */
bool watchers_done(void);
void watchers_describe(void); /* who is not done, into the trace */

/* ---- check_watch.c ---- */

void check_watch_created(struct watch *w, const struct watch_response *r);
void check_watch_events(struct watch *w, const struct watch_response *r);
void check_watch_progress(struct watch *w, const struct watch_response *r);
void check_watch_compacted(struct watch *w, const struct watch_response *r);
/* True: nothing of it is left to tell. */
bool check_watch_is_done(struct watch *w);

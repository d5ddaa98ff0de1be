/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Failpoints with gofail's protocol, in builds with -Dfailpoints=true; a release build contains
 * nothing of them.
 *
 *   failpoint("raftBeforeSave");                  may panic (abort), sleep, print, or do nothing
 *   if (failpoint_error("x"))                     true when the point is set to return(...)
 *
 * Terms as gofail's: off, return(v), sleep(ms or "100ms"), panic, break, print, with counts and
 * percentages ("2*panic", "0.5%sleep(10)") and chains ("1*print->panic"). Set at start by
 * GOFAIL_FAILPOINTS ("name=term;name=term") and at run time over HTTP on GOFAIL_HTTP (GET / list,
 * GET /name, PUT /name with the term as body, PUT /failpoints with several, DELETE /name,
 * GET /name/count). Each point counts the terms it ran since it was last set. Names listed by etcd
 * carry the prefix of their Go package there; both the bare and the prefixed form are accepted.
 *
 * Every use in the program is known from the start, whether it was passed or not: the macro puts a
 * record into a section of its own. Names are string literals.
 *
 * Thread: any for hits; start and stop belong to a composition root.
 */
#pragma once

#include <stdbool.h>

#ifdef CAIRN_FAILPOINTS
struct failpoint;

struct failpoint_site {
    const char *name;
    struct failpoint *point; /* set by failpoint_start(); a NULL point never fires */
};

bool failpoint_hit(const struct failpoint_site *site);
/*
 * Reads GOFAIL_FAILPOINTS and serves GOFAIL_HTTP. Call before other threads start. 0, or negative
 * if a variable is malformed or the address can't be bound.
 */
int failpoint_start(void);
void failpoint_stop(void);
#define failpoint_error(name_)                                                                     \
    ({                                                                                             \
        static struct failpoint_site fp_site_                                                      \
            __attribute__((section("failpoint_sites"), used, aligned(16))) = {"" name_, NULL};     \
        failpoint_hit(&fp_site_);                                                                  \
    })
#define failpoint(name) ((void)failpoint_error(name))
#else
static inline int failpoint_start(void)
{
    return 0;
}
static inline void failpoint_stop(void)
{
}
#define failpoint_error(name) false
#define failpoint(name) ((void)0)
#endif

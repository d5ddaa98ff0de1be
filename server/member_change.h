/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Changes of members on their way to the log (what they do there is member_apply.c's), and what
 * follows when one has been applied.
 *
 * Thread: any, unless a function says otherwise.
 */
#pragma once

#include "server/member_rules.h"
#include "server/server_private.h"

enum { MEMBER_REMOVED_STOP_MS = 1000 }; /* after its removal a member lives on for that long */

/* A copy of the table, with what the rules need beside it. Free with member_view_deinit(). */
struct member_view {
    struct member_list list;
    struct member_situation situation;
};
void member_view_init(struct member_view *v, struct server *s);
void member_view_deinit(struct member_view *v);

/* Puts the request, which has its id and its time, into the wait table, from which it may be gone
 * at any moment then. False: the server stops; the request is finished. */
bool member_change_begin(struct server *s, struct request *request);
/* Proposes; the request with that id is finished if it can't be. Takes the blob. */
void member_change_propose(struct server *s, uint64_t request_id, struct blob *change);

/* The table has changed, or has just been opened: tells the transport and who else must know. arg:
 * the server. The apply turn's, or before the threads start. */
void server_members_changed(void *arg);

/* ---- promotions (member_promote.c) ---- */

struct promotions;

struct promotions *promotions_new(struct server *s);
/* After the node and the transport have let go of what they had. Accepts NULL. */
struct promotions *promotions_free(struct promotions *p);
/* The request has its id and its time. */
void promotions_begin(struct promotions *p, struct request *request, uint64_t member_id);
void promotions_tick(struct promotions *p); /* the ticker's */

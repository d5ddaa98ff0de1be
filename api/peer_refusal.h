/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the log says of those whom the peer port refuses: etcd's lines and fields. etcd writes one
 * for every request, and a member that is refused dials twenty times a second; here a sender gets
 * one of a kind in PEER_REFUSAL_INTERVAL_MS, and no more than PEER_REFUSALS_MAX are written in that
 * time, whoever knocks.
 *
 * Thread: the loop.
 */
#pragma once

#include "api/peer_header.h"
#include "server/peer_door.h"

struct peer;
struct raft_message;

enum { PEER_REFUSALS_MAX = 16, PEER_REFUSAL_INTERVAL_MS = 5000, PEER_REFUSAL_TEXT_BYTES_MAX = 64 };

/* Zeroed at first. */
struct peer_refusals {
    struct peer_refusal {
        uint64_t key; /* of sender and line */
        uint64_t until_ms;
    } last[PEER_REFUSALS_MAX];
};

/* May a line with this key be written now? */
bool peer_refusals_allow(struct peer_refusals *r, uint64_t key, uint64_t now_ms);

/* PEER_HEADER_E_VERSION or PEER_HEADER_E_CLUSTER of peer_sender_check(). */
void peer_refused_sender(struct peer *p, int outcome, const struct peer_sender *sender);
/* A message for another member, or of one that was removed; other verdicts are none of this. */
void peer_refused_message(struct peer *p, enum peer_verdict verdict, const struct raft_message *m);
/* A stream, of etcd's four kinds; text and to as they came. */
void peer_refused_path(struct peer *p, struct bytes text);
void peer_refused_removed(struct peer *p, uint64_t from);
void peer_refused_unknown(struct peer *p, uint64_t from);
void peer_refused_to(struct peer *p, uint64_t from, struct bytes to);

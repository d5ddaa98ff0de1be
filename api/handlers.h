/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The handlers that the table of methods points to, one file per service. Check functions run
 * anywhere; the others on the call's queue.
 */
#pragma once

#include "server/outcome.h"

struct call;
struct server;

enum outcome kv_range_check(struct server *server, const void *request);
enum outcome kv_range_stream_check(struct server *server, const void *request);
enum outcome kv_put_check(struct server *server, const void *request);
enum outcome kv_delete_range_check(struct server *server, const void *request);
enum outcome kv_txn_check(struct server *server, const void *request);
void kv_range(struct call *call);
void kv_range_stream(struct call *call);
void kv_put(struct call *call);
void kv_delete_range(struct call *call);
void kv_txn(struct call *call);
void kv_compact(struct call *call);

enum outcome lease_grant_check(struct server *server, const void *request);
void lease_grant_call(struct call *call);
void lease_revoke_call(struct call *call);
void lease_time_to_live_call(struct call *call);
void lease_leases_call(struct call *call);
void lease_keep_alive_call(struct call *call);

void watch_call(struct call *call);

void lock_lock(struct call *call);
void lock_unlock(struct call *call);

void election_campaign(struct call *call);
void election_proclaim(struct call *call);
void election_leader(struct call *call);
void election_observe(struct call *call);
void election_resign(struct call *call);

void cluster_member_add(struct call *call);
void cluster_member_remove(struct call *call);
void cluster_member_update(struct call *call);
void cluster_member_promote(struct call *call);
void cluster_member_list(struct call *call);

void maintenance_alarm(struct call *call);
void maintenance_status(struct call *call);
void maintenance_defragment(struct call *call);
void maintenance_hash(struct call *call);
void maintenance_hash_kv(struct call *call);
void maintenance_move_leader(struct call *call);

void health_check(struct call *call);
void health_list(struct call *call);
void health_watch(struct call *call);

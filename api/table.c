/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The rows. The macros take every column, so a row that leaves one out does not compile.
 *
 * pending: gRPC hands out a call only if one was requested beforehand. One that comes is replaced
 * before it is looked at, so this bounds the calls that arrive while a queue's thread is busy with
 * one turn, not those under way; what comes beyond that waits in gRPC, and costs no more. It must
 * not be large: Debian's gRPC is built with debug checks, which search a list of everything
 * outstanding at each event. With 2,048 for each hot method that search was a third of a call's CPU
 * time, with 256 still a tenth of what an event costs that is sent to a watcher.
 *
 * Rows whose run is NULL are etcd's methods that come with later issues (auth, snapshot,
 * downgrade): they answer UNIMPLEMENTED, never something that looks like success.
 */
#include "api/table.h"

#include "api/handlers.h"
#include "health.pb-c.h"
#include "rpc.pb-c.h"
#include "v3election.pb-c.h"
#include "v3lock.pb-c.h"

enum { HOT = 64, WARM = 4, COLD = 1 };

#define ROW(path_, package, request_, response_, type_, permission_, pending_, validate_, run_)    \
    {                                                                                              \
        .path = (path_), .request = &package##__##request_##__descriptor,                          \
        .response = &package##__##response_##__descriptor, .type = METHOD_##type_,                 \
        .permission = PERMISSION_##permission_, .pending = (pending_), .validate = (validate_),    \
        .run = (run_),                                                                             \
    }
#define ETCD(service, method, request, response, type, permission, pending, validate, run)         \
    ROW("/etcdserverpb." service "/" method, etcdserverpb, request, response, type, permission,    \
        pending, validate, run)
#define AUTH(method, request, response, permission)                                                \
    ETCD("Auth", method, request, response, UNARY, permission, COLD, NULL, NULL)
#define ELECTION(method, request, response, type, run)                                             \
    ROW("/v3electionpb.Election/" method, v3electionpb, request, response, type, BY_KEYS, WARM,    \
        NULL, run)
#define LOCK(method, request, response, run)                                                       \
    ROW("/v3lockpb.Lock/" method, v3lockpb, request, response, UNARY, BY_KEYS, WARM, NULL, run)
#define HEALTH(method, request, response, type, run)                                               \
    ROW("/grpc.health.v1.Health/" method, grpc__health__v1, request, response, type, NONE, COLD,   \
        NULL, run)

const struct method methods[METHOD_COUNT] = {
    ETCD("KV", "Range", range_request, range_response, UNARY, BY_KEYS, HOT, kv_range_check,
         kv_range),
    ETCD("KV", "RangeStream", range_request, range_stream_response, SERVER_STREAM, BY_KEYS, WARM,
         kv_range_stream_check, kv_range_stream),
    ETCD("KV", "Put", put_request, put_response, UNARY, BY_KEYS, HOT, kv_put_check, kv_put),
    ETCD("KV", "DeleteRange", delete_range_request, delete_range_response, UNARY, BY_KEYS, WARM,
         kv_delete_range_check, kv_delete_range),
    ETCD("KV", "Txn", txn_request, txn_response, UNARY, BY_KEYS, HOT, kv_txn_check, kv_txn),
    ETCD("KV", "Compact", compaction_request, compaction_response, UNARY, ROOT, COLD, NULL,
         kv_compact),

    ETCD("Watch", "Watch", watch_request, watch_response, BIDI_STREAM, BY_KEYS, WARM, NULL,
         watch_call),

    ETCD("Lease", "LeaseGrant", lease_grant_request, lease_grant_response, UNARY, USER, WARM,
         lease_grant_check, lease_grant_call),
    ETCD("Lease", "LeaseRevoke", lease_revoke_request, lease_revoke_response, UNARY, BY_LEASE, WARM,
         NULL, lease_revoke_call),
    ETCD("Lease", "LeaseKeepAlive", lease_keep_alive_request, lease_keep_alive_response,
         BIDI_STREAM, BY_LEASE, WARM, NULL, lease_keep_alive_call),
    ETCD("Lease", "LeaseTimeToLive", lease_time_to_live_request, lease_time_to_live_response, UNARY,
         BY_LEASE, COLD, NULL, lease_time_to_live_call),
    ETCD("Lease", "LeaseLeases", lease_leases_request, lease_leases_response, UNARY, BY_LEASE, COLD,
         NULL, lease_leases_call),

    ETCD("Cluster", "MemberAdd", member_add_request, member_add_response, UNARY, ROOT, COLD, NULL,
         cluster_member_add),
    ETCD("Cluster", "MemberRemove", member_remove_request, member_remove_response, UNARY, ROOT,
         COLD, NULL,
         cluster_member_remove),
    ETCD("Cluster", "MemberUpdate", member_update_request, member_update_response, UNARY, ROOT,
         COLD, NULL,
         cluster_member_update),
    ETCD("Cluster", "MemberList", member_list_request, member_list_response, UNARY, USER, COLD,
         NULL, cluster_member_list),
    ETCD("Cluster", "MemberPromote", member_promote_request, member_promote_response, UNARY, ROOT,
         COLD, NULL,
         cluster_member_promote),

    ETCD("Maintenance", "Alarm", alarm_request, alarm_response, UNARY, BY_ACTION, COLD, NULL,
         maintenance_alarm),
    ETCD("Maintenance", "Status", status_request, status_response, UNARY, USER, COLD, NULL,
         maintenance_status),
    ETCD("Maintenance", "Defragment", defragment_request, defragment_response, UNARY, ROOT, COLD,
         NULL, maintenance_defragment),
    ETCD("Maintenance", "Hash", hash_request, hash_response, UNARY, ROOT, COLD, NULL,
         maintenance_hash),
    ETCD("Maintenance", "HashKV", hash_kvrequest, hash_kvresponse, UNARY, ROOT, COLD, NULL,
         maintenance_hash_kv),
    ETCD("Maintenance", "Snapshot", snapshot_request, snapshot_response, SERVER_STREAM, ROOT, COLD,
         NULL, NULL),
    ETCD("Maintenance", "MoveLeader", move_leader_request, move_leader_response, UNARY, ROOT, COLD,
         NULL,
         maintenance_move_leader),
    ETCD("Maintenance", "Downgrade", downgrade_request, downgrade_response, UNARY, ROOT, COLD, NULL,
         NULL),

    AUTH("AuthEnable", auth_enable_request, auth_enable_response, ROOT),
    AUTH("AuthDisable", auth_disable_request, auth_disable_response, ROOT),
    AUTH("AuthStatus", auth_status_request, auth_status_response, NONE),
    AUTH("Authenticate", authenticate_request, authenticate_response, NONE),
    AUTH("UserAdd", auth_user_add_request, auth_user_add_response, ROOT),
    AUTH("UserGet", auth_user_get_request, auth_user_get_response, SELF),
    AUTH("UserList", auth_user_list_request, auth_user_list_response, ROOT),
    AUTH("UserDelete", auth_user_delete_request, auth_user_delete_response, ROOT),
    AUTH("UserChangePassword", auth_user_change_password_request,
         auth_user_change_password_response, ROOT),
    AUTH("UserGrantRole", auth_user_grant_role_request, auth_user_grant_role_response, ROOT),
    AUTH("UserRevokeRole", auth_user_revoke_role_request, auth_user_revoke_role_response, ROOT),
    AUTH("RoleAdd", auth_role_add_request, auth_role_add_response, ROOT),
    AUTH("RoleGet", auth_role_get_request, auth_role_get_response, SELF),
    AUTH("RoleList", auth_role_list_request, auth_role_list_response, ROOT),
    AUTH("RoleDelete", auth_role_delete_request, auth_role_delete_response, ROOT),
    AUTH("RoleGrantPermission", auth_role_grant_permission_request,
         auth_role_grant_permission_response, ROOT),
    AUTH("RoleRevokePermission", auth_role_revoke_permission_request,
         auth_role_revoke_permission_response, ROOT),

    ELECTION("Campaign", campaign_request, campaign_response, UNARY, election_campaign),
    ELECTION("Proclaim", proclaim_request, proclaim_response, UNARY, election_proclaim),
    ELECTION("Leader", leader_request, leader_response, UNARY, election_leader),
    ELECTION("Observe", leader_request, leader_response, SERVER_STREAM, election_observe),
    ELECTION("Resign", resign_request, resign_response, UNARY, election_resign),

    LOCK("Lock", lock_request, lock_response, lock_lock),
    LOCK("Unlock", unlock_request, unlock_response, lock_unlock),

    HEALTH("Check", health_check_request, health_check_response, UNARY, health_check),
    HEALTH("List", health_list_request, health_list_response, UNARY, health_list),
    HEALTH("Watch", health_check_request, health_check_response, SERVER_STREAM, health_watch),
};

static size_t slash(const struct method *method)
{
    return (size_t)(strrchr(method->path, '/') - method->path);
}

struct bytes method_service(const struct method *method)
{
    return bytes_of(method->path + 1, slash(method) - 1);
}

struct bytes method_name(const struct method *method)
{
    return bytes_str(method->path + slash(method) + 1);
}

const char *method_type_name(enum method_type type)
{
    static const char *const names[] = {"unary", "client_stream", "server_stream", "bidi_stream"};
    return names[type];
}

/* As etcd's interceptors look at it: by the type of a unary call's request, by a stream's name. */
bool method_serves_learner(const struct method *method, const void *request)
{
    const Etcdserverpb__RangeRequest *range = request;

    if (method->type != METHOD_UNARY)
        return method->request == &etcdserverpb__snapshot_request__descriptor;
    if (method->request == &etcdserverpb__range_request__descriptor)
        return range->serializable;
    return method->request == &etcdserverpb__status_request__descriptor;
}

bool method_service_is_known(struct bytes service)
{
    for (size_t i = 0; i < METHOD_COUNT; i++)
        if (bytes_equal(method_service(&methods[i]), service))
            return true;
    return false;
}

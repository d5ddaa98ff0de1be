/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The table of methods: one row per RPC that etcd 3.7 has (49) and per health RPC (3). Everything
 * that depends on the method comes from its row: the path is matched byte for byte, and what a
 * caller must be allowed to do stands in the row, so that no method can be added without saying it.
 * Thread: any (constant data).
 */
#pragma once

#include <protobuf-c/protobuf-c.h>

#include "base/bytes.h"
#include "server/outcome.h"

struct call;
struct server;

enum method_type { METHOD_UNARY, METHOD_CLIENT_STREAM, METHOD_SERVER_STREAM, METHOD_BIDI_STREAM };

/* What the caller needs once authentication is enabled. There is no value 0: a row without one does
 * not compile. */
enum method_permission {
    PERMISSION_NONE = 1, /* anybody */
    PERMISSION_USER,     /* any user that is known */
    PERMISSION_SELF,     /* the user or role asked about is one's own, or role root */
    PERMISSION_BY_KEYS,  /* read or write permission for each key or interval that the request names
                          */
    PERMISSION_BY_LEASE, /* any user; and permission for the keys that are attached to the lease */
    PERMISSION_BY_ACTION, /* Alarm: any user may ask, role root may change */
    PERMISSION_ROOT,      /* role root */
};

struct method {
    const char *path; /* "/etcdserverpb.KV/Put" */
    const ProtobufCMessageDescriptor *request;
    const ProtobufCMessageDescriptor *response;
    enum method_type type;
    enum method_permission permission;
    unsigned pending; /* calls requested from gRPC beforehand, over all queues */
    /* Checks the decoded request without looking at the store (the quota apart). NULL: nothing to
     * check. */
    enum outcome (*validate)(struct server *server, const void *request);
    /* Runs or starts the call; on its queue's thread. NULL: not implemented, answered as such
     * without reading the request. */
    void (*run)(struct call *call);
};

enum { METHOD_COUNT = 52 };
extern const struct method methods[METHOD_COUNT];

/* The service's part of a path "/service/method" and the method's. */
struct bytes method_service(const struct method *method);
struct bytes method_name(const struct method *method);
const char *method_type_name(enum method_type type); /* as the metrics' label grpc_type has it */
bool method_service_is_known(struct bytes service);
/* May a learner answer that (decoded) request? */
bool method_serves_learner(const struct method *method, const void *request);

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The composition of everything that speaks to clients: the front door in front, gRPC and HTTP
 * behind it. Started from the inside out, stopped from the outside in.
 *
 * Thread: the composition root's; the handlers run on the listener's.
 */
#include "api/api.h"

#include "api/grpc.h"
#include "api/http.h"
#include "api/listener.h"
#include "base/mem.h"

struct api {
    struct grpc_side *grpc;
    struct http *http;
    struct listener *listener;
};

static void take_grpc(void *arg, int fd)
{
    struct api *a = arg;

    grpc_side_adopt(a->grpc, fd);
}

static void take_http(void *arg, int fd, bool metrics_only)
{
    struct api *a = arg;

    http_adopt(a->http, fd, metrics_only);
}

int api_start(struct api **ret, struct server *server)
{
    struct api *a = mem_new(struct api);
    struct listener_handlers handlers = {.grpc = take_grpc, .http = take_http, .arg = a};
    int r = grpc_side_start(&a->grpc, server);

    if (r == 0)
        r = http_start(&a->http, server);
    if (r == 0)
        r = listener_start(&a->listener, server_config(server), &handlers);
    if (r != 0) {
        api_stop(a, 0);
        api_free(a);
        return r;
    }
    *ret = a;
    return 0;
}

void api_stop(struct api *a, uint64_t grace_ms)
{
    if (a->listener)
        listener_stop(a->listener);
    if (a->http)
        http_stop(a->http);
    if (a->grpc)
        grpc_side_stop(a->grpc, grace_ms);
}

struct api *api_free(struct api *a)
{
    if (!a)
        return NULL;
    listener_free(a->listener);
    http_free(a->http);
    grpc_side_free(a->grpc);
    free(a);
    return NULL;
}

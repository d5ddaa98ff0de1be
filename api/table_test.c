/* SPDX-License-Identifier: Apache-2.0 */
/* The table of methods against the services of the .proto files: complete, and nothing else. */
#include "api/table.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

#include "api/grpc_metrics.h"
#include "health.pb-c.h"
#include "rpc.pb-c.h"
#include "v3election.pb-c.h"
#include "v3lock.pb-c.h"

static const ProtobufCServiceDescriptor *const services[] = {
    &etcdserverpb__kv__descriptor,          &etcdserverpb__watch__descriptor,
    &etcdserverpb__lease__descriptor,       &etcdserverpb__cluster__descriptor,
    &etcdserverpb__maintenance__descriptor, &etcdserverpb__auth__descriptor,
    &v3electionpb__election__descriptor,    &v3lockpb__lock__descriptor,
    &grpc__health__v1__health__descriptor,
};
enum { N_SERVICES = sizeof(services) / sizeof(services[0]) };

static const struct method *find(const char *path)
{
    for (size_t i = 0; i < METHOD_COUNT; i++)
        if (strcmp(methods[i].path, path) == 0)
            return &methods[i];
    return NULL;
}

static void test_complete(void **state)
{
    size_t n = 0;

    for (size_t s = 0; s < N_SERVICES; s++) {
        for (unsigned i = 0; i < services[s]->n_methods; i++, n++) {
            const ProtobufCMethodDescriptor *d = &services[s]->methods[i];
            char path[128];

            snprintf(path, sizeof(path), "/%s/%s", services[s]->name, d->name);
            const struct method *method = find(path);
            if (!method)
                fail_msg("%s has no row", path);
            assert_ptr_equal(method->request, d->input);
            assert_ptr_equal(method->response, d->output);
        }
    }
    assert_int_equal(n, METHOD_COUNT);
}

static void test_rows(void **state)
{
    for (size_t i = 0; i < METHOD_COUNT; i++) {
        assert_in_range(methods[i].permission, PERMISSION_NONE, PERMISSION_ROOT);
        assert_true(methods[i].pending > 0);
        assert_ptr_equal(find(methods[i].path), &methods[i]);
        assert_true(method_service_is_known(method_service(&methods[i])));
    }
    assert_false(method_service_is_known(BYTES_LIT("etcdserverpb.kv")));
    assert_false(method_service_is_known(BYTES_LIT("")));
}

static void test_types(void **state)
{
    static const struct {
        const char *path;
        const char *type;
    } cases[] = {
        {"/etcdserverpb.KV/Put", "unary"},
        {"/etcdserverpb.KV/RangeStream", "server_stream"},
        {"/etcdserverpb.Watch/Watch", "bidi_stream"},
        {"/etcdserverpb.Lease/LeaseKeepAlive", "bidi_stream"},
        {"/etcdserverpb.Maintenance/Snapshot", "server_stream"},
        {"/v3electionpb.Election/Observe", "server_stream"},
        {"/grpc.health.v1.Health/Watch", "server_stream"},
    };
    size_t streams = 0;

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        assert_string_equal(method_type_name(find(cases[i].path)->type), cases[i].type);
    for (size_t i = 0; i < METHOD_COUNT; i++)
        streams += methods[i].type != METHOD_UNARY;
    assert_int_equal(streams, 6);
}

/* The callers that need nothing are named here: a new one is a decision. */
static void test_who_needs_nothing(void **state)
{
    static const char *const open[] = {
        "/etcdserverpb.Auth/AuthStatus", "/etcdserverpb.Auth/Authenticate",
        "/grpc.health.v1.Health/Check",  "/grpc.health.v1.Health/List",
        "/grpc.health.v1.Health/Watch",
    };
    size_t n = 0;

    for (size_t i = 0; i < METHOD_COUNT; i++)
        n += methods[i].permission == PERMISSION_NONE;
    assert_int_equal(n, sizeof(open) / sizeof(open[0]));
    for (size_t i = 0; i < sizeof(open) / sizeof(open[0]); i++)
        assert_int_equal(find(open[i])->permission, PERMISSION_NONE);
}

static size_t count(struct buf *text, const char *what)
{
    size_t n = 0;

    for (const char *p = buf_cstr(text); (p = strstr(p, what)); p++)
        n++;
    return n;
}

static void test_metrics(void **state)
{
    _cleanup_(buf_deinit) struct buf text = BUF_NULL;

    grpc_metrics_register(true);
    grpc_metrics_register(false);
    grpc_metrics_client_request(false, BYTES_LIT("3.7"));
    grpc_metrics_client_request(true, BYTES_LIT("3.7"));
    grpc_metrics_client_request(false, BYTES_LIT("3.7"));
    grpc_metrics_client_request(false, BYTES_LIT("a\"b\\c\nd"));
    metrics_render(&text);
    assert_int_equal(count(&text, "\ngrpc_server_started_total{"), METHOD_COUNT);
    assert_int_equal(count(&text, "\ngrpc_server_handled_total{"),
                     METHOD_COUNT * STATUS_CODE_COUNT);
    assert_int_equal(count(&text, "\ngrpc_server_handling_seconds_count{"), METHOD_COUNT);
    assert_int_equal(count(&text,
                           "\ngrpc_server_handled_total{grpc_code=\"DataLoss\",grpc_method="
                           "\"Put\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"} 0\n"),
                     1);
    assert_int_equal(count(&text, "{client_api_version=\"3.7\",type=\"unary\"} 2\n"), 1);
    assert_int_equal(count(&text, "{client_api_version=\"3.7\",type=\"stream\"} 1\n"), 1);
    assert_int_equal(count(&text, "{client_api_version=\"a\\\"b\\\\c\\nd\",type=\"unary\"} 1\n"),
                     1);
}

static void test_versions_are_bounded(void **state)
{
    _cleanup_(buf_deinit) struct buf text = BUF_NULL;
    char version[CLIENT_VERSION_LEN_MAX + 2];

    for (int i = 0; i < 1000; i++) {
        snprintf(version, sizeof(version), "v%d", i);
        grpc_metrics_client_request(false, bytes_str(version));
    }
    memset(version, 'x', sizeof(version));
    grpc_metrics_client_request(false, bytes_of(version, sizeof(version)));
    metrics_render(&text);
    assert_in_range(count(&text, "\netcd_server_client_requests_total{"), CLIENT_VERSIONS_MAX / 2,
                    CLIENT_VERSIONS_MAX + 1);
    assert_int_equal(count(&text, "client_api_version=\"other\""), 1);
    assert_int_equal(count(&text, "xxxx"), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_complete), cmocka_unit_test(test_rows),
        cmocka_unit_test(test_types),    cmocka_unit_test(test_who_needs_nothing),
        cmocka_unit_test(test_metrics),  cmocka_unit_test(test_versions_are_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Configuration: tables of command lines, environments and files with what etcd 3.7.1 does with
 * each (tried against its binary). */
#include "server/config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/mem.h"
#include "server/config_private.h"

enum { ARGS_MAX = 24, OUTPUT_MAX = 32768 };

/* One run of config_parse() with its output. */
struct run {
    enum config_action action;
    int exit_code;
    struct config config;
    char out[OUTPUT_MAX];
    char err[OUTPUT_MAX];
};

static int capture_start(int fd, int *ret_saved)
{
    int file = memfd_create("output", MFD_CLOEXEC);

    assert_true(file >= 0);
    *ret_saved = dup(fd);
    assert_int_equal(dup2(file, fd), fd);
    return file;
}

static void capture_end(int fd, int file, int saved, char *ret)
{
    fflush(NULL);
    assert_int_equal(dup2(saved, fd), fd);
    close(saved);
    ssize_t n = pread(file, ret, OUTPUT_MAX - 1, 0);
    assert_true(n >= 0);
    ret[n] = '\0';
    close(file);
}

/* args: separated by single blanks ("" is no argument); env: NULL-terminated or NULL. */
static struct run *run_parse(const char *args, char **env)
{
    struct run *run = mem_new(struct run);
    char *argv[ARGS_MAX] = {(char *)"cairn"};
    int argc = 1, saved_out, saved_err;
    char *copy = mem_strdup(args);

    for (char *word = strtok(copy, " "); word; word = strtok(NULL, " ")) {
        assert_true(argc < ARGS_MAX - 1);
        argv[argc++] = word;
    }
    run->exit_code = -1;
    fflush(NULL);
    int out = capture_start(STDOUT_FILENO, &saved_out);
    int err = capture_start(STDERR_FILENO, &saved_err);
    run->action = config_parse(argc, argv, env, &run->config, &run->exit_code);
    capture_end(STDOUT_FILENO, out, saved_out, run->out);
    capture_end(STDERR_FILENO, err, saved_err, run->err);
    free(copy);
    return run;
}

static struct run *run_free(struct run *run)
{
    if (run && run->action == CONFIG_RUN)
        config_deinit(&run->config);
    free(run);
    return NULL;
}

static void expect_exit(const char *args, char **env, int exit_code, const char *err)
{
    struct run *run = run_parse(args, env);

    if (run->action != CONFIG_EXIT || run->exit_code != exit_code || !strstr(run->err, err))
        fail_msg("'%s': action %d, exit code %d, stderr:\n%s\nwanted exit code %d and:\n%s", args,
                 run->action, run->exit_code, run->err, exit_code, err);
    run_free(run);
}

#define VERIFY "\"msg\":\"failed to verify flags\",\"error\":\""

static void test_flag_syntax(void **state)
{
    static const struct {
        const char *args;
        const char *err;
    } cases[] = {
        {"-foo", "flag provided but not defined: -foo\nUsage:\n"},
        {"--foo=1", "flag provided but not defined: -foo\n"},
        {"--discovery=x", "flag provided but not defined: -discovery\n"},
        {"---foo", "bad flag syntax: ---foo\n"},
        {"-=x", "bad flag syntax: -=x\n"},
        {"--=x", "bad flag syntax: --=x\n"},
        {"--name", "flag needs an argument: -name\n"},
        {"--pre-vote=x", "invalid boolean value \"x\" for -pre-vote: parse error\n"},
        {"--heartbeat-interval=x",
         "invalid value \"x\" for flag -heartbeat-interval: parse error\n"},
        {"--heartbeat-interval=-1",
         "invalid value \"-1\" for flag -heartbeat-interval: parse error\n"},
        {"--heartbeat-interval 1__0",
         "invalid value \"1__0\" for flag -heartbeat-interval: parse error\n"},
        {"--heartbeat-interval=99999999999999999999999",
         "for flag -heartbeat-interval: value out of range\n"},
        {"--max-concurrent-streams=x",
         "-max-concurrent-streams: strconv.ParseUint: parsing \"x\": invalid syntax\n"},
        {"--max-concurrent-streams=99999999999",
         "strconv.ParseUint: parsing \"99999999999\": value out of range\n"},
        {"--grpc-keepalive-interval=5",
         "invalid value \"5\" for flag -grpc-keepalive-interval: parse error\n"},
        {"--compaction-batch-limit=1.5",
         "invalid value \"1.5\" for flag -compaction-batch-limit: parse error\n"},
        {"--initial-cluster-state=foo",
         "invalid value \"foo\" for flag -initial-cluster-state: invalid value\n"},
        {"--v2-deprecation=not-yet",
         "invalid value \"not-yet\" for flag -v2-deprecation: invalid value \"not-yet\"\n"},
        {"--feature-gates=foo",
         "invalid value \"foo\" for flag -feature-gates: missing bool value for foo\n"},
        {"--feature-gates=foo=true", "-feature-gates: unrecognized feature gate: foo\n"},
        {"--feature-gates=InitialCorruptCheck=x",
         "invalid value of InitialCorruptCheck=x, err: strconv.ParseBool: parsing \"x\": invalid "
         "syntax\n"},
        {"--cors=foo", "invalid value \"foo\" for flag -cors: URL scheme must be http, https, "
                       "unix, or unixs: foo\n"},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        expect_exit(cases[i].args, NULL, 2, cases[i].err);
    expect_exit("x", NULL, 1, VERIFY "\\\"x\\\" is not a valid flag\"");
    expect_exit("--pre-vote true", NULL, 1, VERIFY "\\\"true\\\" is not a valid flag\"");
    expect_exit("-- --name=x", NULL, 1, VERIFY "\\\"--name=x\\\" is not a valid flag\"");
    expect_exit("-", NULL, 1, VERIFY "\\\"-\\\" is not a valid flag\"");
}

static void test_urls(void **state)
{
    static const struct {
        const char *url;
        const char *err;
    } cases[] = {
        {"foo", "URL scheme must be http, https, unix, or unixs: foo\n"},
        {"http://foo", "URL address does not have the form \"host:port\": http://foo\n"},
        {"http:foo:1", "URL address does not have the form \"host:port\": http:foo:1\n"},
        {"http://1.2.3.4:5/x", "URL must not contain a path: http://1.2.3.4:5/x\n"},
        {"ftp://1.2.3.4:5", "URL scheme must be http, https, unix, or unixs: ftp://1.2.3.4:5\n"},
        {"http://127.0.0.1:xx", "parse \"http://127.0.0.1:xx\": invalid port \":xx\" after host\n"},
        {"http://[::1:2", "parse \"http://[::1:2\": missing ']' in host\n"},
        {"http://a%zz:1", "parse \"http://a%zz:1\": invalid URL escape \"%zz\"\n"},
        {"http://a|b:1", "parse \"http://a|b:1\": invalid character \"|\" in host name\n"},
        {":1", "parse \":1\": missing protocol scheme\n"},
        {"a/b:c", "URL scheme must be http, https, unix, or unixs: a/b:c\n"},
        {"1:2", "parse \"1:2\": first path segment in URL cannot contain colon\n"},
        {"http://127.0.0.1:1,", "URL scheme must be http, https, unix, or unixs: \n"},
        {"http://a:1:2", "parse \"http://a:1:2\": invalid port \":1:2\" after host\n"},
    };
    struct url_list list;
    char *error = NULL;

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        _cleanup_(mem_freep) char *args = mem_printf("--listen-client-urls=%s", cases[i].url);
        _cleanup_(mem_freep) char *err = mem_printf(
            "invalid value \"%s\" for flag -listen-client-urls: %s", cases[i].url, cases[i].err);
        expect_exit(args, NULL, 2, err);
    }
    assert_int_equal(
        url_list_parse(" HTTP://[::1]:25,unix:///run/x,http://a:99999,http://[::1]:25 ", &list,
                       &error),
        0);
    assert_int_equal(list.len, 3);
    assert_string_equal(list.items[0].text, "http://[::1]:25");
    assert_string_equal(list.items[0].host, "::1");
    assert_int_equal(list.items[0].port, 25);
    assert_string_equal(list.items[1].text, "http://a:99999");
    assert_false(list.items[1].port_valid);
    assert_string_equal(list.items[2].scheme, "unix");
    assert_string_equal(list.items[2].host, "/run/x");
    url_list_deinit(&list);
}

static const struct {
    const char *args;
    const char *error;
} validate_cases[] = {
    {"--election-timeout=499",
     "--election-timeout[499ms] should be at least as 5 times as --heartbeat-interval[100ms]"},
    {"--election-timeout=50001",
     "--election-timeout[50001ms] is too long, and should be set less than 50000ms"},
    {"--election-timeout=0", "--election-timeout must be >0 (set to 0ms)"},
    {"--heartbeat-interval=0", "--heartbeat-interval must be >0 (set to 0ms)"},
    {"--listen-client-urls=http://foo:1", "expected IP in URL for binding (http://foo:1)"},
    {"--listen-peer-urls=http://:1", "expected IP in URL for binding (http://:1)"},
    {"--listen-metrics-urls=http://foo:1", "expected IP in URL for binding (http://foo:1)"},
    {"--listen-client-urls=http://127.0.0.1:1",
     "--advertise-client-urls is required when --listen-client-urls is set explicitly"},
    {"--listen-client-urls=http://127.0.0.1:99999 --advertise-client-urls=http://a:1",
     "listen tcp: address 99999: invalid port"},
    {"--initial-advertise-peer-urls=http://:1",
     "--initial-advertise-peer-urls \\\"http://:1\\\" must be \\\"host:port\\\" (unexpected "
     "empty host (http://:1))"},
    {"--auto-compaction-mode=x", "unknown auto-compaction-mode \\\"x\\\""},
    {"--auto-compaction-mode=", "undefined auto-compaction-mode"},
    {"--auto-compaction-retention=x",
     "error parsing CompactionRetention: time: invalid duration \\\"x\\\""},
    {"--auto-compaction-retention=-1",
     "error parsing CompactionRetention: time: missing unit in duration \\\"-1\\\""},
    {"--auto-compaction-retention=1x",
     "error parsing CompactionRetention: time: unknown unit \\\"x\\\" in duration \\\"1x\\\""},
    {"--discovery-token=x", "both --discovery-token and --discovery-endpoints must be set"},
    {"--discovery-endpoints=x --initial-cluster=a=http://a:1",
     "multiple discovery or bootstrap flags are set."},
    {"--discovery-token=x --discovery-endpoints=y", "--discovery-token is not supported by Cairn"},
    {"--discovery-fallback=proxy",
     "v2 proxy is deprecated, and --discovery-fallback can't be configured as \\\"proxy\\\""},
    {"--discovery-srv=x", "--discovery-srv is not supported by Cairn"},
    {"--compact-hash-check-time=0s", "--compact-hash-check-time must be >0 (set to 0s)"},
    {"--tls-min-version=x", "unexpected TLS version \\\"x\\\" (must be one of: TLS1.2, TLS1.3)"},
    {"--tls-min-version=TLS1.3 --tls-max-version=TLS1.2",
     "min version (TLS1.3) is greater than max version (TLS1.2)"},
    {"--feature-gates=LeaseCheckpointPersist=true",
     "enabling feature gate LeaseCheckpointPersist requires enabling feature gate "
     "LeaseCheckpoint"},
    {"--tls-min-version=TLS1.3 --cipher-suites=TLS_AES_128_GCM_SHA256",
     "cipher suites cannot be configured when only TLS1.3 is enabled"},
    {"--cipher-suites=foo", "unexpected TLS cipher suite \\\"foo\\\""},
    {"--cipher-suites=", "unexpected TLS cipher suite \\\"\\\""},
    {"--cipher-suites=TLS_AES_128_GCM_SHA256,", "unexpected TLS cipher suite \\\"\\\""},
    {"--max-learners=-1", "membership: too many learner members in cluster"},
    {"--logger=capnslog", "--logger=capnslog is removed in v3.5"},
    {"--logger=foo", "unknown logger option \\\"foo\\\""},
    {"--log-level=foo", "unrecognized level: \\\"foo\\\""},
    {"--log-format=foo", "unknown log format: foo, supported values json, console"},
    {"--log-outputs=default,stderr", "multi logoutput for \\\"default\\\" is not supported yet"},
    {"--log-outputs=", "open sink \\\"\\\": open : no such file or directory"},
    {"--enable-log-rotation",
     "--log-outputs requires a single file path when --log-rotate-config-json is defined"},
    {"--enable-distributed-tracing --distributed-tracing-sampling-rate=-1",
     "distributed tracing configurition is not valid: (tracing sampling rate must be "
     "positive)"},
    {"--auth-token=foo", "auth: invalid auth options"},
    {"--auth-token=jwt,pub-key=x", "--auth-token=jwt is not supported by Cairn"},
    {"--config-file=/nonexistent", "open /nonexistent: no such file or directory"},
    {"--cert-file=x", "--cert-file is not supported by Cairn"},
    {"--client-cert-auth", "--client-cert-auth is not supported by Cairn"},
    {"--client-crl-file=x", "--client-crl-file is not supported by Cairn"},
    {"--peer-auto-tls", "--peer-auto-tls is not supported by Cairn"},
    {"--peer-cert-allowed-cn=x", "--peer-cert-allowed-cn is not supported by Cairn"},
    {"--listen-client-urls=https://127.0.0.1:1 --advertise-client-urls=https://a:1",
     "TLS is not supported by Cairn " CAIRN_VERSION
     " yet; refusing to listen on client url https://127.0.0.1:1"},
    {"--listen-metrics-urls=https://127.0.0.1:1",
     "TLS is not supported by Cairn " CAIRN_VERSION
     " yet; refusing to listen on metrics url https://127.0.0.1:1"},
    {"--initial-cluster=foo",
     "error setting up initial cluster: URL scheme must be http, https, unix, or unixs: "},
    {"--initial-cluster=default=http://localhost:2380,foo=bar",
     "error setting up initial cluster: URL scheme must be http, https, unix, or unixs: bar"},
};

static void test_validate(void **state)
{
    for (size_t i = 0; i < sizeof(validate_cases) / sizeof(validate_cases[0]); i++) {
        _cleanup_(mem_freep) char *err = mem_printf(VERIFY "%s", validate_cases[i].error);
        expect_exit(validate_cases[i].args, NULL, 1, err);
    }
}

/* config_text() of a flag after a command line that starts. */
static void test_values(void **state)
{
    static const struct {
        const char *args;
        const char *flag;
        const char *text;
    } cases[] = {
        {"", "name", "default"},
        {"", "data-dir", "default.etcd"},
        {"--name=m1", "data-dir", "m1.etcd"},
        {"--name m1 -data-dir /d", "data-dir", "/d"},
        {"--name=m1", "initial-cluster", "m1=http://localhost:2380"},
        {"--name=m1 --initial-advertise-peer-urls=http://b:2,http://a:1", "initial-cluster",
         "m1=http://a:1,m1=http://b:2"},
        {"--initial-advertise-peer-urls=http://a:1", "initial-cluster",
         "default=http://localhost:2380"},
        {"--name=m1 --initial-cluster=x=http://a:1", "initial-cluster", "x=http://a:1"},
        {"--listen-peer-urls=", "listen-peer-urls", "http://localhost:2380"},
        {"--listen-metrics-urls=http://127.0.0.1:2,http://127.0.0.1:1,http://127.0.0.1:2",
         "listen-metrics-urls", "http://127.0.0.1:1,http://127.0.0.1:2"},
        {"--pre-vote=F", "pre-vote", "false"},
        {"--pre-vote=false --pre-vote", "pre-vote", "true"},
        {"--heartbeat-interval=0x10 --election-timeout=1_000", "heartbeat-interval", "16"},
        {"--heartbeat-interval=0x10 --election-timeout=1_000", "election-timeout", "1000"},
        {"--grpc-keepalive-interval=1h30m", "grpc-keepalive-interval", "1h30m0s"},
        {"--grpc-keepalive-interval=1.5s", "grpc-keepalive-interval", "1.5s"},
        {"--quota-backend-bytes=-1", "quota-backend-bytes", "-1"},
        {"--host-whitelist=b,a,b", "host-whitelist", "a,b"},
        {"--feature-gates=InitialCorruptCheck=true --feature-gates=AllBeta=false", "feature-gates",
         "AllBeta=false,FastLeaseKeepAlive=false,InitialCorruptCheck=true,"
         "TxnModeWriteWithSharedBuffer=false"},
        {"--experimental-initial-corrupt-check=true", "feature-gates", "InitialCorruptCheck=true"},
        {"--experimental-initial-corrupt-check --experimental-watch-progress-notify-interval 5s",
         "watch-progress-notify-interval", "5s"},
        {"--v --force --config=x --vv=3", "name", "default"},
        {"--auto-compaction-retention=5m", "auto-compaction-retention", "5m"},
        {"--cors=*", "cors", "*"},
        {"--log-level= --log-format=", "log-format", "json"},
        {"--cipher-suites=TLS_RSA_WITH_AES_128_CBC_SHA,TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305",
         "cipher-suites", "TLS_RSA_WITH_AES_128_CBC_SHA,TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305"},
        {"--log-level=", "log-level", "info"},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct run *run = run_parse(cases[i].args, NULL);
        if (run->action != CONFIG_RUN)
            fail_msg("'%s' does not start:\n%s", cases[i].args, run->err);
        assert_string_equal(config_text(&run->config, cases[i].flag), cases[i].text);
        run_free(run);
    }
}

static void test_fields(void **state)
{
    struct run *run = run_parse("--max-txn-ops=9999999999 --max-request-bytes=9999999999 "
                                "--max-learners=0 --warning-apply-duration=2ms"
                                " --log-outputs=stdout,stderr --socket-reuse-port"
                                " --max-wals=0 --watch-ring-bytes=268435456",
                                NULL);
    struct config *c = &run->config;

    assert_int_equal(run->action, CONFIG_RUN);
    assert_int_equal(c->max_txn_ops, UINT32_MAX);
    assert_int_equal(c->max_request_bytes, CONFIG_REQUEST_BYTES_MAX);
    assert_int_equal(c->max_learners, 0);
    assert_int_equal(c->max_wals, 0);
    assert_int_equal(c->watch_ring_bytes, 256 << 20);
    assert_int_equal(c->warning_apply_duration_ns, 2000000);
    assert_int_equal(c->compaction_batch_limit, 1000);
    assert_int_equal(c->compaction_sleep_interval_ns, 10000000);
    assert_int_equal(c->max_concurrent_streams, UINT32_MAX);
    assert_int_equal(c->log_outputs.len, 2);
    assert_string_equal(c->log_outputs.items[0], "stderr");
    assert_true(c->socket_reuse_port);
    assert_true(config_is_set(c, "socket-reuse-port"));
    assert_false(config_is_set(c, "pre-vote"));
    assert_null(config_text(c, "nonsense"));
    assert_int_equal(c->listen_client_urls.len, 1);
    assert_int_equal(c->listen_client_urls.items[0].port, 2379);
    run_free(run);
}

static void test_environment(void **state)
{
    char *conflict[] = {(char *)"ETCD_NAME=a", NULL};
    char *good[] = {(char *)"ETCD_NAME=a",    (char *)"ETCD_FOO=1", (char *)"ETCD_LOG_LEVEL=",
                    (char *)"ETCD_VERSION=9", (char *)"HOME=/",     NULL};
    char *bad[] = {(char *)"ETCD_PRE_VOTE=x", (char *)"ETCD_HEARTBEAT_INTERVAL=y", NULL};
    char *file[] = {(char *)"ETCD_CONFIG_FILE=/nonexistent", (char *)"ETCD_PRE_VOTE=x", NULL};

    expect_exit("--name=b", conflict, 1,
                "\"msg\":\"conflicting environment variable is shadowed by corresponding "
                "command-line flag");
    expect_exit("", bad, 1, VERIFY "invalid value \\\"x\\\" for ETCD_PRE_VOTE: parse error\"");
    expect_exit("", file, 1, VERIFY "open /nonexistent: no such file or directory\"");
    struct run *run = run_parse("", good);
    assert_int_equal(run->action, CONFIG_RUN);
    assert_string_equal(run->config.name, "a");
    assert_non_null(strstr(run->err,
                           "\"recognized and used environment "
                           "variable\",\"variable-name\":\"ETCD_NAME\",\"variable-value\":\"a\""));
    assert_non_null(strstr(
        run->err, "\"unrecognized environment variable\",\"environment-variable\":\"ETCD_FOO=1\""));
    assert_non_null(strstr(
        run->err,
        "\"unrecognized environment variable\",\"environment-variable\":\"ETCD_LOG_LEVEL=\""));
    assert_non_null(strstr(run->err, "\"cannot set special environment variable\""));
    run_free(run);
}

/* Runs with a file; a blank in args separates flags as elsewhere. */
static struct run *run_file(const char *content, const char *more_args)
{
    char path[] = "/tmp/cairn-config-test-XXXXXX";
    int fd = mkstemp(path);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, content, strlen(content)), strlen(content));
    close(fd);
    _cleanup_(mem_freep) char *args = mem_printf("--config-file=%s %s", path, more_args);
    struct run *run = run_parse(args, NULL);
    unlink(path);
    return run;
}

#define JSON_ERROR "error unmarshaling JSON: while decoding JSON: json: cannot unmarshal "

static void test_file_errors(void **state)
{
    static const struct {
        const char *content;
        const char *error;
    } cases[] = {
        {"election-timeout: 1", "--election-timeout[1ms] should be"},
        {"{\"election-timeout\": 2}", "--election-timeout[2ms] should be"},
        {"election-timeout: 1\nelection-timeout: 3", "--election-timeout[3ms] should be"},
        {"ELECTION-timeout: 0x4", "--election-timeout[4ms] should be"},
        {"election-timeout: 010", "--election-timeout[8ms] should be"},
        {"heartbeat-interval: 1e3", "as --heartbeat-interval[1000ms]"},
        {"x: &a 5\nelection-timeout: *a", "--election-timeout[5ms] should be"},
        {"election-timeout: x",
         JSON_ERROR "string into Go struct field configYAML.Config.election-timeout of type uint"},
        {"election-timeout: -1", JSON_ERROR
         "number -1 into Go struct field configYAML.Config.election-timeout of type uint"},
        {"election-timeout: 1.5", JSON_ERROR
         "number 1.5 into Go struct field configYAML.Config.election-timeout of type uint"},
        {"name: 5", JSON_ERROR "number into Go struct field configYAML.Config.name of type string"},
        {"pre-vote: \\\"true\\\"",
         JSON_ERROR "string into Go struct field configYAML.Config.pre-vote of type bool"},
        {"grpc-keepalive-interval: 10s",
         JSON_ERROR "string into Go struct field configYAML.Config.grpc-keepalive-interval of type "
                    "time.Duration"},
        {"log-outputs: stderr",
         JSON_ERROR "string into Go struct field configYAML.Config.log-outputs of type []string"},
        {"listen-client-urls: [a]", JSON_ERROR
         "array into Go struct field configYAML.configJSON.listen-client-urls of type string"},
        {"client-transport-security: foo",
         JSON_ERROR "string into Go struct field configYAML.configJSON.client-transport-security "
                    "of type embed.securityConfig"},
        {"client-transport-security:\n  cert-file: 5",
         JSON_ERROR "number into Go struct field "
                    "securityConfig.configJSON.client-transport-security.cert-file of type string"},
        {"peer-transport-security:", "invalid peer-transport-security"},
        {"foo", JSON_ERROR "string into Go value of type embed.configYAML"},
        {"- a", JSON_ERROR "array into Go value of type embed.configYAML"},
        {"election-timeout: 1\n  foo: 2", "error converting YAML to JSON: yaml: line 2: mapping "
                                          "values are not allowed in this context"},
        {"{\"election-timeout\": 1",
         "error converting YAML to JSON: yaml: line 1: did not find expected ',' or '}'"},
        {"listen-client-urls: foo", "unexpected error setting up listen-client-urls: URL scheme "
                                    "must be http, https, unix, or unixs: foo"},
        {"initial-cluster-state: foo", "unexpected clusterState \\\"foo\\\""},
        {"feature-gates: foo=true", "unrecognized feature gate: foo"},
        {"client-transport-security: {cert-file: a}", "--cert-file is not supported by Cairn"},
        {"client-transport-security: {client-cert-auth: true}",
         "--client-cert-auth is not supported by Cairn"},
        {"peer-transport-security: {allowed-cn: [a]}",
         "--peer-cert-allowed-cn is not supported by Cairn"},
        {"discovery-config: {client: {endpoints: [a]}}",
         "both --discovery-token and --discovery-endpoints must be set"},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct run *run = run_file(cases[i].content, "");
        if (run->action != CONFIG_EXIT || run->exit_code != 1 || !strstr(run->err, cases[i].error))
            fail_msg("file '%s': action %d, exit code %d, stderr:\n%s\nwanted:\n%s",
                     cases[i].content, run->action, run->exit_code, run->err, cases[i].error);
        run_free(run);
    }
}

static void test_file_values(void **state)
{
    struct run *run = run_file(
        "name: m1\ngrpc-keepalive-interval: 10000000\nlog-outputs: [stderr, stdout]\npre-vote: no\n"
        "listen-client-urls: http://127.0.0.1:1\nsocket-options: {reuse-port: true}\nmax-txn-ops: "
        "7\n"
        "max-snapshots: 3\nfeature-gates: LeaseCheckpoint=true\nexperimental-max-learners: "
        "2\nNope: 1\nwal-dir: null\n",
        "--name=other --max-txn-ops=9 --data-dir=/x");
    struct config *c = &run->config;
    int saved;

    assert_int_equal(run->action, CONFIG_RUN);
    assert_string_equal(c->name, "m1");
    assert_string_equal(c->data_dir, "m1.etcd");
    assert_int_equal(c->max_txn_ops, 7);
    assert_int_equal(c->grpc_keepalive_interval_ns, 10000000);
    assert_int_equal(c->max_learners, 2);
    assert_false(c->pre_vote);
    assert_true(c->socket_reuse_port);
    assert_string_equal(c->initial_cluster, "m1=http://localhost:2380");
    assert_string_equal(config_text(c, "advertise-client-urls"), "http://localhost:2379");
    fflush(NULL);
    int err = capture_start(STDERR_FILENO, &saved);
    config_log_warnings(c);
    capture_end(STDERR_FILENO, err, saved, run->err);
    assert_non_null(
        strstr(run->err, "\"msg\":\"unknown field in the configuration file\",\"name\":\"Nope\""));
    assert_non_null(
        strstr(run->err, "\"name\":\"experimental-max-learners\",\"value\":\"max-learners\""));
    assert_non_null(strstr(
        run->err, "--max-snapshots is deprecated in 3.6 and will be decommissioned in 3.8."));
    assert_non_null(strstr(run->err, "\"flag has no effect yet\",\"flag\":\"--feature-gates\""));
    assert_null(strstr(run->err, "--pre-vote"));
    run_free(run);
}

/* A zero is no number of entries, and the log says so. */
static void test_zero_entries(void **state)
{
    struct run *run = run_parse("--snapshot-count=0 --snapshot-catchup-entries=0", NULL);
    int saved;

    assert_int_equal(run->action, CONFIG_RUN);
    assert_int_equal(run->config.snapshot_count, 10000);
    assert_int_equal(run->config.snapshot_catchup_entries, 5000);
    fflush(NULL);
    int err = capture_start(STDERR_FILENO, &saved);
    config_log_warnings(&run->config);
    capture_end(STDERR_FILENO, err, saved, run->err);
    assert_non_null(strstr(run->err, "\"updating snapshot-count to default\","
                                     "\"given-snapshot-count\":0,"
                                     "\"updated-snapshot-count\":10000"));
    assert_non_null(strstr(run->err, "\"updating snapshot catch-up entries to default\","
                                     "\"given-snapshot-catchup-entries\":0,"
                                     "\"updated-snapshot-catchup-entries\":5000"));
    assert_null(strstr(run->err, "no effect"));
    run_free(run);
}

/* kubeadm's flags, with its TLS flags and https taken away. */
static void test_kubeadm(void **state)
{
    struct run *run = run_parse(
        "--name=node1 --feature-gates=InitialCorruptCheck=true "
        "--listen-client-urls=http://127.0.0.1:2379,http://10.0.0.1:2379"
        " --advertise-client-urls=http://10.0.0.1:2379 --listen-peer-urls=http://10.0.0.1:2380"
        " --initial-advertise-peer-urls=http://10.0.0.1:2380 --data-dir=/var/lib/etcd "
        "--snapshot-count=10000"
        " --listen-metrics-urls=http://127.0.0.1:2381 --watch-progress-notify-interval=5s "
        "--initial-cluster=node1=http://10.0.0.1:2380",
        NULL);
    char *error = NULL;

    assert_int_equal(run->action, CONFIG_RUN);
    assert_int_equal(config_check_bootstrap(&run->config, &error), 0);
    run_free(run);
}

static const struct {
    const char *args;
    const char *error;
} bootstrap_cases[] = {
    {"--name=foo --initial-cluster=bar=http://localhost:2380",
     "couldn't find local name \"foo\" in the initial cluster configuration"},
    {"--initial-cluster=",
     "couldn't find local name \"default\" in the initial cluster configuration"},
    {"--initial-cluster=,",
     "couldn't find local name \"default\" in the initial cluster configuration"},
    {"--name=foo --initial-cluster=foo=http://localhost:2381",
     "--initial-cluster has foo=http://localhost:2381 but missing from "
     "--initial-advertise-peer-urls=http://localhost:2380 "
     "(resolved urls: \"http://localhost:2380\" != \"http://localhost:2381\")"},
    {"--name=foo --initial-advertise-peer-urls=http://127.0.0.1:1,http://127.0.0.2:1 "
     "--initial-cluster=foo=http://127.0.0.1:1",
     "--initial-advertise-peer-urls has http://127.0.0.2:1 but missing from "
     "--initial-cluster=foo=http://127.0.0.1:1,foo=http://127.0.0.2:1"},
    {"--name=foo --initial-advertise-peer-urls=http://127.0.0.1:1,http://127.0.0.1:2 "
     "--initial-cluster=foo=http://127.0.0.1:4,foo=http://127.0.0.1:3",
     "--initial-cluster has foo=http://127.0.0.1:3,foo=http://127.0.0.1:4 but missing from "
     "--initial-advertise-peer-urls=http://127.0.0.1:1,http://127.0.0.1:2 "
     "(resolved urls: \"http://127.0.0.1:1\" != \"http://127.0.0.1:3\")"},
    {"--name=foo --initial-advertise-peer-urls=http://127.0.0.1:1,http://127.0.0.1:2 "
     "--initial-cluster=foo=http://127.0.0.1:1,foo=http://127.0.0.1:3",
     "--initial-cluster has foo=http://127.0.0.1:3 but missing from "
     "--initial-advertise-peer-urls=http://127.0.0.1:1,http://127.0.0.1:2 "
     "(resolved urls: \"http://127.0.0.1:2\" != \"http://127.0.0.1:3\")"},
    {"--name=foo --initial-advertise-peer-urls=http://127.0.0.1:1 "
     "--initial-cluster=foo=http://127.0.0.1:1,foo=http://127.0.0.1:2",
     "--initial-cluster has foo=http://127.0.0.1:2 but missing from "
     "--initial-advertise-peer-urls=http://127.0.0.1:1 "
     "(len([\"http://127.0.0.1:1\"]) != len([\"http://127.0.0.1:1\" \"http://127.0.0.1:2\"]))"},
    {"--name=foo --initial-advertise-peer-urls=http://127.0.0.1:1 "
     "--initial-cluster=foo=http://127.0.0.1:1,foo=http://127.0.0.1:1",
     "failed to resolve http://127.0.0.1:1 to match --initial-cluster=foo=http://127.0.0.1:1 "
     "(len([\"http://127.0.0.1:1\"]) != len([\"http://127.0.0.1:1\" \"http://127.0.0.1:1\"]))"},
    {"--name=foo --initial-advertise-peer-urls=http://127.0.0.1:1,http://127.0.0.1:2 "
     "--initial-cluster=foo=http://127.0.0.1:1,foo=http://127.0.0.1:2,bar=http://127.0.0.1:2",
     "initial cluster bar=http://127.0.0.1:2,foo=http://127.0.0.1:1,foo=http://127.0.0.1:2 has "
     "duplicate url"},
    {"--name=foo --initial-cluster-state=existing --initial-cluster=bar=http://127.0.0.1:1",
     "couldn't find local name \"foo\" in the initial cluster configuration"},
    {"--name=foo --initial-cluster-state=existing "
     "--initial-cluster=foo=http://127.0.0.1:1,bar=http://127.0.0.1:1",
     "initial cluster bar=http://127.0.0.1:1,foo=http://127.0.0.1:1 has duplicate url"},
    /* What this member advertises is told to the others when it is added. */
    {"--name=foo --initial-cluster-state=existing "
     "--initial-cluster=foo=http://127.0.0.1:1,bar=http://127.0.0.1:2",
     NULL},
    {"--name=foo --initial-advertise-peer-urls=http://[::1]:1 "
     "--initial-cluster=foo=http://[0:0:0:0:0:0:0:1]:1,bar=http://127.0.0.1:2",
     NULL},
    {"--name=foo", NULL},
    {"--name=foo --initial-advertise-peer-urls=http://127.0.0.2:1,http://127.0.0.1:1 "
     "--initial-cluster=foo=http://127.0.0.2:1,,foo=http://127.0.0.1:1",
     NULL},
};

static void test_bootstrap(void **state)
{
    for (size_t i = 0; i < sizeof(bootstrap_cases) / sizeof(bootstrap_cases[0]); i++) {
        _cleanup_(mem_freep) char *error = NULL;
        struct run *run = run_parse(bootstrap_cases[i].args, NULL);
        assert_int_equal(run->action, CONFIG_RUN);
        assert_int_equal(config_check_bootstrap(&run->config, &error),
                         bootstrap_cases[i].error != NULL);
        if (bootstrap_cases[i].error)
            assert_string_equal(error, bootstrap_cases[i].error);
        run_free(run);
    }
}

static void test_help_and_version(void **state)
{
    struct run *run = run_parse("--version --name=x", NULL);

    assert_int_equal(run->exit_code, 0);
    assert_int_equal(strncmp(run->out, "etcd Version: 3.7.1\nGit SHA: ", 29), 0);
    assert_non_null(strstr(run->out, "\nGo OS/Arch: linux/"));
    assert_non_null(strstr(run->out, "\nCairn Version: " CAIRN_VERSION "\n"));
    run_free(run);
    run = run_parse("-h", NULL);
    assert_int_equal(run->exit_code, 0);
    assert_int_equal(strncmp(run->err, "Usage:\n", 7), 0);
    for (size_t i = 0; i < config_flags_len; i++) {
        _cleanup_(mem_freep) char *line = mem_printf("\n  --%s", config_flags[i].name);
        if (config_flags[i].group != GROUP_HIDDEN && !strstr(run->out, line))
            fail_msg("--help has no%s", line);
    }
    run_free(run);
}

/* Every default must be a value of its flag in its normal form, or a flag given with its default
 * would look changed. */
static void test_defaults_are_normal(void **state)
{
    struct run *run = run_parse("", NULL);

    for (size_t i = 0; i < config_flags_len; i++) {
        char *error = NULL;
        const char *text = config_flags[i].default_text;
        bool skip =
            config_flags[i].type == FLAG_CHOICE || strcmp(config_flags[i].name, "data-dir") == 0;
        if (*text && config_flag_set(run->config.extra, &config_flags[i], text, &error))
            fail_msg("--%s=%s: %s", config_flags[i].name, text, error);
        if (!skip)
            assert_string_equal(run->config.extra->texts[i], text);
    }
    run_free(run);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_flag_syntax),
        cmocka_unit_test(test_urls),
        cmocka_unit_test(test_validate),
        cmocka_unit_test(test_values),
        cmocka_unit_test(test_fields),
        cmocka_unit_test(test_environment),
        cmocka_unit_test(test_file_errors),
        cmocka_unit_test(test_file_values),
        cmocka_unit_test(test_zero_entries),
        cmocka_unit_test(test_kubeadm),
        cmocka_unit_test(test_bootstrap),
        cmocka_unit_test(test_help_and_version),
        cmocka_unit_test(test_defaults_are_normal),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

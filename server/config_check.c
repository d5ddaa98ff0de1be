/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Checks of values against each other, in etcd's order and words (embed.Config.Validate, then what
 * StartEtcd finds), then Cairn's own: a flag that asks for protection, or for another cluster than
 * this one, is refused while Cairn cannot give it. And the log lines about the configuration at
 * start.
 *
 * Thread: the composition root.
 */
#include "server/config_private.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <stdlib.h>

#include "base/mem.h"

enum { ELECTION_TIMEOUT_MAX_MS = 50000, REQUEST_BYTES_RECOMMENDED = 10 << 20 };

/* ---- logging ---- */

static bool is_log_file(const char *output)
{
    return strcmp(output, "default") != 0 && strcmp(output, "stderr") != 0 &&
           strcmp(output, "stdout") != 0;
}

static int check_logging(const struct config *c, char **ret_error)
{
    enum log_level level;
    size_t files = 0;

    if (strcmp(c->logger, "capnslog") == 0)
        return config_invalid(ret_error, "--logger=capnslog is removed in v3.5");
    if (strcmp(c->logger, "zap") != 0)
        return config_invalid_quoted(ret_error, "unknown logger option ", c->logger, "");
    for (size_t i = 0; i < c->log_outputs.len; i++) {
        if (c->log_outputs.len > 1 && strcmp(c->log_outputs.items[i], "default") == 0)
            return config_invalid(ret_error,
                                  "multi logoutput for \"default\" is not supported yet");
        files += is_log_file(c->log_outputs.items[i]);
    }
    if (strcmp(config_text(c, "enable-log-rotation"), "true") == 0 &&
        (files > 1 || (c->log_outputs.len == 1 && files == 0)))
        return config_invalid(
            ret_error,
            "--log-outputs requires a single file path when --log-rotate-config-json is defined");
    if (log_level_parse(c->log_level, &level))
        return config_invalid_quoted(ret_error, "unrecognized level: ", c->log_level, "");
    if (strcmp(c->log_format, "json") != 0 && strcmp(c->log_format, "console") != 0)
        return config_invalid(ret_error, "unknown log format: %s, supported values json, console",
                              c->log_format);
    if (c->log_outputs.len == 0)
        return config_invalid(ret_error, "open sink \"\": open : no such file or directory");
    return 0;
}

/* ---- URLs ---- */

static bool is_unix(const struct url *u)
{
    return strncmp(u->scheme, "unix", 4) == 0;
}

static bool is_address(const char *host)
{
    uint8_t address[16];

    return inet_pton(AF_INET, host, address) == 1 || inet_pton(AF_INET6, host, address) == 1;
}

static int check_bind_urls(const struct url_list *urls, char **ret_error)
{
    for (size_t i = 0; i < urls->len; i++) {
        const struct url *u = &urls->items[i];
        if (!is_unix(u) && strcmp(u->host, "localhost") != 0 && !is_address(u->host))
            return config_invalid(ret_error, "expected IP in URL for binding (%s)", u->text);
        if (!u->port_valid)
            return config_invalid(ret_error, "listen tcp: address %s: invalid port",
                                  strrchr(u->text, ':') + 1);
    }
    return 0;
}

static int check_host_urls(const struct url_list *urls, const char *flag, const char *joined,
                           const char *wanted, char **ret_error)
{
    for (size_t i = 0; i < urls->len; i++) {
        if (!is_unix(&urls->items[i]) && !urls->items[i].host[0])
            return config_invalid(ret_error, "%s \"%s\" must be %s (unexpected empty host (%s))",
                                  flag, joined, wanted, urls->items[i].text);
    }
    return 0;
}

static int check_urls(const struct config *c, char **ret_error)
{
    const struct url_list *bound[] = {&c->listen_peer_urls, &c->listen_client_urls,
                                      &c->listen_client_http_urls, &c->listen_metrics_urls};

    for (size_t i = 0; i < 4; i++) {
        if (check_bind_urls(bound[i], ret_error))
            return 1;
    }
    if (check_host_urls(&c->initial_advertise_peer_urls, "--initial-advertise-peer-urls",
                        config_text(c, "initial-advertise-peer-urls"), "\"host:port\"", ret_error))
        return 1;
    return check_host_urls(
        &c->advertise_client_urls, "--advertise-client-urls",
        config_text(c, "advertise-client-urls"),
        "in the format \"host:port\", \"unix:/path/to/socket\" or \"unixs:/path/to/socket\"",
        ret_error);
}

/* ---- cluster and discovery ---- */

static int check_discovery(const struct config *c, char **ret_error)
{
    const char *endpoints = config_text(c, "discovery-endpoints"),
               *srv = config_text(c, "discovery-srv");
    struct string_list list;
    int r = 0;

    if (strcmp(config_text(c, "discovery-fallback"), "proxy") == 0)
        return config_invalid(
            ret_error,
            "v2 proxy is deprecated, and --discovery-fallback can't be configured as \"proxy\"");
    if ((c->initial_cluster[0] != 0) + (srv[0] != 0) + (endpoints[0] != 0) > 1)
        return config_invalid(ret_error,
                              "multiple discovery or bootstrap flags are set. Choose one of "
                              "\"initial-cluster\", \"discovery-endpoints\" or \"discovery-srv\"");
    if (!config_text(c, "discovery-token")[0] != !endpoints[0])
        return config_invalid(ret_error,
                              "both --discovery-token and --discovery-endpoints must be set");
    if (!endpoints[0])
        return 0;
    string_list_split(endpoints, false, &list);
    for (size_t i = 0; i < list.len && r == 0; i++) {
        if (strspn(list.items[i], " \t\r\n") == strlen(list.items[i]))
            r = config_invalid(ret_error, "--discovery-endpoints must not contain empty endpoints");
    }
    string_list_deinit(&list);
    return r;
}

static int check_timing(const struct config *c, char **ret_error)
{
    const char *heartbeat = config_text(c, "heartbeat-interval"),
               *election = config_text(c, "election-timeout");

    if (c->heartbeat_interval_ms == 0)
        return config_invalid(ret_error, "--heartbeat-interval must be >0 (set to %sms)",
                              heartbeat);
    if (c->election_timeout_ms == 0)
        return config_invalid(ret_error, "--election-timeout must be >0 (set to %sms)", election);
    if (5 * (uint64_t)c->heartbeat_interval_ms > c->election_timeout_ms)
        return config_invalid(
            ret_error,
            "--election-timeout[%sms] should be at least as 5 times as --heartbeat-interval[%sms]",
            election, heartbeat);
    if (c->election_timeout_ms > ELECTION_TIMEOUT_MAX_MS)
        return config_invalid(
            ret_error, "--election-timeout[%sms] is too long, and should be set less than %dms",
            election, ELECTION_TIMEOUT_MAX_MS);
    return 0;
}

static int check_compaction(const struct config *c, char **ret_error)
{
    if (!c->auto_compaction_mode[0])
        return config_invalid(ret_error, "undefined auto-compaction-mode");
    if (strcmp(c->auto_compaction_mode, "periodic") != 0 &&
        strcmp(c->auto_compaction_mode, "revision") != 0)
        return config_invalid_quoted(ret_error, "unknown auto-compaction-mode ",
                                     c->auto_compaction_mode, "");
    return 0;
}

static int check_retention(const struct config *c, char **ret_error)
{
    const char *text = c->auto_compaction_retention;
    _cleanup_(mem_freep) char *error = NULL;
    size_t sign = *text == '+';
    int64_t v;

    if (text[sign] && strspn(text + sign, "0123456789") == strlen(text + sign))
        return 0;
    if (go_duration_parse(text, &v, &error))
        return config_invalid(ret_error, "error parsing CompactionRetention: %s", error);
    return 0;
}

static int check_features(const struct config *c, char **ret_error)
{
    int64_t rate, hash_check_ns;

    check(go_int_parse(config_text(c, "distributed-tracing-sampling-rate"), &rate) == 0);
    if (strcmp(config_text(c, "enable-distributed-tracing"), "true") == 0 &&
        (rate < 0 || rate > 1000000))
        return config_invalid(
            ret_error,
            "distributed tracing configurition is not valid: (tracing sampling rate must be %s)",
            rate < 0 ? "positive" : "less than 1000000");
    if (config_gate_enabled(c->extra, "LeaseCheckpointPersist") &&
        !config_gate_enabled(c->extra, "LeaseCheckpoint"))
        return config_invalid(ret_error,
                              "enabling feature gate LeaseCheckpointPersist requires enabling "
                              "feature gate LeaseCheckpoint");
    check(go_duration_parse(config_text(c, "compact-hash-check-time"), &hash_check_ns, NULL) == 0);
    if (hash_check_ns <= 0)
        return config_invalid(ret_error, "--compact-hash-check-time must be >0 (set to %s)",
                              config_text(c, "compact-hash-check-time"));
    return 0;
}

/* 0: the default, -1: no version. */
static int tls_version(const char *text)
{
    return !*text ? 0 : strcmp(text, "TLS1.2") == 0 ? 12 : strcmp(text, "TLS1.3") == 0 ? 13 : -1;
}

static int check_tls(const struct config *c, char **ret_error)
{
    const char *min = config_text(c, "tls-min-version"), *max = config_text(c, "tls-max-version");

    if (tls_version(min) < 0 || tls_version(max) < 0)
        return config_invalid_quoted(ret_error, "unexpected TLS version ",
                                     tls_version(min) < 0 ? min : max,
                                     " (must be one of: TLS1.2, TLS1.3)");
    if (tls_version(max) && tls_version(min) > tls_version(max))
        return config_invalid(ret_error, "min version (%s) is greater than max version (%s)", min,
                              max);
    if (tls_version(min) == 13 && config_text(c, "cipher-suites")[0])
        return config_invalid(ret_error,
                              "cipher suites cannot be configured when only TLS1.3 is enabled");
    return 0;
}

/* Go's names, those that it calls insecure included, and two that etcd adds. */
static bool is_cipher_suite(const char *name)
{
    static const char *const names[] = {
        "TLS_AES_128_GCM_SHA256",
        "TLS_AES_256_GCM_SHA384",
        "TLS_CHACHA20_POLY1305_SHA256",
        "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
        "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256",
        "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
        "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
        "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305",
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
        "TLS_ECDHE_ECDSA_WITH_RC4_128_SHA",
        "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA",
        "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
        "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256",
        "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
        "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
        "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305",
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
        "TLS_ECDHE_RSA_WITH_RC4_128_SHA",
        "TLS_RSA_WITH_3DES_EDE_CBC_SHA",
        "TLS_RSA_WITH_AES_128_CBC_SHA",
        "TLS_RSA_WITH_AES_128_CBC_SHA256",
        "TLS_RSA_WITH_AES_128_GCM_SHA256",
        "TLS_RSA_WITH_AES_256_CBC_SHA",
        "TLS_RSA_WITH_AES_256_GCM_SHA384",
        "TLS_RSA_WITH_RC4_128_SHA",
    };

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (strcmp(name, names[i]) == 0)
            return true;
    }
    return false;
}

/* An empty text on the command line is a list of one empty name; in the file it is an empty list.
 * */
static int check_cipher_suites(const struct config *c, char **ret_error)
{
    const char *text = config_text(c, "cipher-suites");
    struct string_list names;
    int r = 0;

    if (!*text && (c->extra->file[0] || !config_is_set(c, "cipher-suites")))
        return 0;
    string_list_split(text, false, &names);
    for (size_t i = 0; i < names.len && r == 0; i++) {
        if (!is_cipher_suite(names.items[i]))
            r = config_invalid_quoted(ret_error, "unexpected TLS cipher suite ", names.items[i],
                                      "");
    }
    string_list_deinit(&names);
    return r;
}

/* etcd compares the learners that there are with the most that there may be: none is too many for
 * less than none. */
static int check_learners(const struct config *c, char **ret_error)
{
    int64_t max;

    check(go_int_parse(config_text(c, "max-learners"), &max) == 0);
    return max < 0 ? config_invalid(ret_error, "membership: too many learner members in cluster")
                   : 0;
}

/* ---- Cairn's own ---- */

static int refuse_flags(const struct config *c, char **ret_error)
{
    for (size_t i = 0; i < config_flags_len; i++) {
        const struct flag *flag = &config_flags[i];
        if (flag->effect == EFFECT_REFUSED && strcmp(c->extra->texts[i], flag->default_text) != 0)
            return config_invalid(
                ret_error,
                "--%s is not supported by Cairn %s yet; refusing to start without what it asks for",
                flag->name, CAIRN_VERSION);
    }
    if (strcmp(config_text(c, "auth-token"), "jwt") == 0 ||
        strncmp(config_text(c, "auth-token"), "jwt,", 4) == 0)
        return config_invalid(ret_error, "--auth-token=jwt is not supported by Cairn %s yet",
                              CAIRN_VERSION);
    if (strcmp(config_text(c, "auth-token"), "simple") != 0)
        return config_invalid(ret_error, "auth: invalid auth options");
    return 0;
}

static int refuse_secure_listeners(const struct config *c, char **ret_error)
{
    const struct url_list *bound[] = {&c->listen_client_urls, &c->listen_client_http_urls,
                                      &c->listen_peer_urls, &c->listen_metrics_urls};
    static const char *const what[] = {"client", "client", "peer", "metrics"};

    for (size_t i = 0; i < 4; i++) {
        for (size_t j = 0; j < bound[i]->len; j++) {
            const struct url *u = &bound[i]->items[j];
            if (strcmp(u->scheme, "https") == 0 || strcmp(u->scheme, "unixs") == 0)
                return config_invalid(
                    ret_error,
                    "TLS is not supported by Cairn %s yet; refusing to listen on %s url %s",
                    CAIRN_VERSION, what[i], u->text);
        }
    }
    return 0;
}

static int check_etcd(const struct config *c, char **ret_error)
{
    if (check_logging(c, ret_error) || check_urls(c, ret_error) || check_discovery(c, ret_error) ||
        check_timing(c, ret_error))
        return 1;
    if (c->listen_client_urls.len > 0 && c->advertise_client_urls.len == 0)
        return config_invalid(
            ret_error,
            "--advertise-client-urls is required when --listen-client-urls is set explicitly");
    if (check_compaction(c, ret_error) || check_features(c, ret_error) || check_tls(c, ret_error))
        return 1;
    return check_retention(c, ret_error);
}

int config_validate(const struct config *config, char **ret_error)
{
    if (check_etcd(config, ret_error) || check_cipher_suites(config, ret_error) ||
        config_check_cluster(config, ret_error) || check_learners(config, ret_error) ||
        refuse_flags(config, ret_error))
        return 1;
    return refuse_secure_listeners(config, ret_error);
}

/* ---- log lines at start ---- */

static void log_effects(const struct config_extra *x)
{
    for (size_t i = 0; i < config_flags_len; i++) {
        const struct flag *flag = &config_flags[i];
        if (!x->is_set[i] || strcmp(x->texts[i], flag->default_text) == 0)
            continue;
        _cleanup_(mem_freep) char *name = mem_printf("--%s", flag->name);
        if (flag->effect == EFFECT_NOT_YET)
            log_warn("flag has no effect yet", LOG_STR("flag", name),
                     LOG_STR("value", x->texts[i]));
        else if (flag->effect == EFFECT_NONE)
            log_warn("flag has no effect in Cairn", LOG_STR("flag", name),
                     LOG_STR("value", x->texts[i]));
    }
}

static void log_deprecated(const struct config *c)
{
    if (config_is_set(c, "max-snapshots"))
        log_warn("--max-snapshots is deprecated in 3.6 and will be decommissioned in 3.8.");
    if (config_is_set(c, "v2-deprecation"))
        log_warn("--v2-deprecation is deprecated and scheduled for removal in v3.8. The default "
                 "value is enforced, ignoring user input.");
}

/* As etcd: nobody means none by a zero. */
static void log_zeros(const struct config *c)
{
    if (strcmp(config_text(c, "snapshot-count"), "0") == 0)
        log_info("updating snapshot-count to default", LOG_U64("given-snapshot-count", 0),
                 LOG_U64("updated-snapshot-count", c->snapshot_count));
    if (strcmp(config_text(c, "snapshot-catchup-entries"), "0") == 0)
        log_info("updating snapshot catch-up entries to default",
                 LOG_U64("given-snapshot-catchup-entries", 0),
                 LOG_U64("updated-snapshot-catchup-entries", c->snapshot_catchup_entries));
}

void config_log_warnings(const struct config *config)
{
    const struct config_extra *x = config->extra;

    if (config->listen_client_http_urls.len == 0)
        log_warn(
            "Running http and grpc server on single port. This is not recommended for production.");
    if (strcmp(config->name, "default") == 0)
        log_warn("it isn't recommended to use default name, please set a value for --name. Note "
                 "that etcd might run into issue when multiple members have the same default name",
                 LOG_STR("name", config->name));
    if (x->file[0])
        log_info("loaded server configuration, other configuration command line flags and "
                 "environment variables will be ignored if provided",
                 LOG_STR("path", x->file));
    log_deprecated(config);
    log_info("Running: ", LOG_STRS("args", (const char *const *)x->args, x->n_args));
    if (x->default_host)
        log_info("detected default host for advertise", LOG_STR("host", x->default_host));
    if (x->data_dir_derived)
        log_warn("'data-dir' was empty; using default", LOG_STR("data-dir", config->data_dir));
    if (config->max_request_bytes > REQUEST_BYTES_RECOMMENDED)
        log_warn("exceeded recommended request limit",
                 LOG_U64("max-request-bytes", config->max_request_bytes),
                 LOG_U64("recommended-request-bytes", REQUEST_BYTES_RECOMMENDED));
    for (size_t i = 0; i < x->n_notes; i++)
        log_warn(x->notes[i].text, LOG_STR("name", x->notes[i].name),
                 LOG_STR("value", x->notes[i].value));
    log_zeros(config);
    log_effects(x);
}

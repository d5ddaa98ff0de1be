/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The configuration: etcd 3.7's flags, environment and configuration file, with etcd's precedence
 * and Go's flag rules.
 *
 * Field names are the flags' names with underscores. Durations are nanoseconds (Go's
 * time.Duration). Strings are never NULL after config_parse(). One table in config_flags.c has
 * name, type, default, group, help text and effect of every flag; parsing, --help, the environment,
 * the file and the warnings at start all come from it. Values above a field's range are cut to its
 * largest.
 *
 * Outcome of config_validate(), config_check_bootstrap() and url_list_parse(): 1, the values are
 * wrong and *ret_error (malloc'd) says why in etcd's words. Thread: the composition root, before
 * other threads start; read only afterwards.
 */
#pragma once

#include "base/bytes.h"
#include "base/log.h"

struct url {
    char *scheme;    /* http, https, unix, unixs */
    char *host;      /* name or address without brackets; path for unix and unixs */
    uint16_t port;   /* 0 if the text has none, or one that is no 16-bit number */
    bool port_valid; /* false: the text has a port above 65535 */
    char *text;      /* as given, without blanks around it and with the scheme in lower case */
};

struct url_list {
    struct url *items; /* sorted by text, each once */
    size_t len;
};

struct string_list {
    char **items;
    size_t len;
};

struct config {
    /* Member. */
    char *name;
    char *data_dir; /* "" given: ${name}.etcd */
    char *wal_dir;
    uint64_t snapshot_count;
    uint32_t heartbeat_interval_ms;
    uint32_t election_timeout_ms;
    bool initial_election_tick_advance;
    struct url_list listen_peer_urls;
    struct url_list listen_client_urls;
    struct url_list listen_client_http_urls;
    uint32_t max_snapshots;
    uint32_t max_wals; /* 0: none is ever recycled */
    bool memory_mlock;
    int64_t quota_backend_bytes; /* 0: 2 GiB; negative: off */
    uint32_t max_txn_ops;
    uint32_t max_request_bytes; /* at most CONFIG_REQUEST_BYTES_MAX */
    uint32_t max_concurrent_streams;
    int64_t grpc_keepalive_min_time_ns;
    int64_t grpc_keepalive_interval_ns;
    int64_t grpc_keepalive_timeout_ns;
    bool socket_reuse_port;
    bool socket_reuse_address;
    /* Clustering. */
    struct url_list initial_advertise_peer_urls;
    char *initial_cluster;       /* as text: name=url,... */
    char *initial_cluster_state; /* new or existing */
    char *initial_cluster_token;
    struct url_list advertise_client_urls;
    bool strict_reconfig_check;
    bool pre_vote;
    char *auto_compaction_retention;
    char *auto_compaction_mode;
    /* Monitoring, logging. */
    char *metrics; /* basic or extensive */
    struct url_list listen_metrics_urls;
    char *logger;
    struct string_list log_outputs;
    char *log_level;
    char *log_format;
    int64_t warning_unary_request_duration_ns;
    int64_t watch_progress_notify_interval_ns; /* 0: etcd's 10 minutes */
    int64_t warning_apply_duration_ns;
    /* Features. */
    uint32_t compaction_batch_limit;
    int64_t compaction_sleep_interval_ns;
    uint64_t snapshot_catchup_entries;
    uint64_t watch_ring_bytes;
    uint32_t max_learners;
    bool force_new_cluster;
    bool unsafe_no_fsync;
    struct string_list host_whitelist; /* empty or "*": every host */
    struct string_list cors;           /* empty or "*": every origin */
    /* Everything else of etcd's list is parsed and kept here by name for the issues that give it an
     * effect. */
    struct config_extra *extra;
};

/* The largest message that gRPC can take (2 GiB) less the 512 KiB that it is given on top of a
 * request. */
enum { CONFIG_REQUEST_BYTES_MAX = INT32_MAX - 512 * 1024 };

/* What parsing decided should happen. */
enum config_action {
    CONFIG_RUN,
    CONFIG_EXIT, /* text printed (help, version, error); exit with ret_exit_code */
};

/*
 * Parses argv, ETCD_* of environ and --config-file, derives what depends on other values and
 * validates (config_validate()). Prints what etcd would print: help and version on stdout, errors
 * and usage on stderr, log lines about the environment through base/log. With CONFIG_EXIT *ret is
 * untouched.
 */
enum config_action config_parse(int argc, char **argv, char **environ_, struct config *ret,
                                int *ret_exit_code);
/*
 * The log lines about the configuration that etcd writes at start, and one warning for each given
 * flag that has no effect yet, each
 * --experimental-* name and each unknown field of the file. Call after log_setup().
 */
void config_log_warnings(const struct config *config);
/* etcd's checks of values against each other, then Cairn's: what would leave a user less safe than
 * he asked for is refused. */
int config_validate(const struct config *config, char **ret_error);
/* etcd's checks of --initial-cluster before the first start; not for a member that has data: a
 * restart ignores the flag. */
int config_check_bootstrap(const struct config *config, char **ret_error);
void config_deinit(struct config *config);

/* A feature gate as given; stage is ALPHA or BETA. */
struct config_gate {
    const char *name;
    const char *stage;
    bool on;
};
/* Gate i in order of the names; false: there is none. */
bool config_gate(const struct config *config, size_t i, struct config_gate *ret);
bool config_gate_is_on(const struct config *config, const char *name); /* name: of a gate */

int url_list_parse(const char *text, struct url_list *ret, char **ret_error); /* comma separated */
void url_list_deinit(struct url_list *list);
void string_list_deinit(struct string_list *list);
/* Value of any flag as text, as parsed; NULL if the name is unknown. The name comes without dashes:
 * "cert-file". */
const char *config_text(const struct config *config, const char *flag);
/* True: the flag, its variable or its field of the file was given. */
bool config_is_set(const struct config *config, const char *flag);

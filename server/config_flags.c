/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One flag at a time: looking it up, checking a text as Go's flag package and etcd's flag.Value
 * types do, and keeping it in its normal form (what String() of the Go type would print). Then the
 * three sources that need no other file: the command line, the environment, and the
 * --experimental-* names of etcd 3.6 and before, which etcd 3.7 no longer takes.
 *
 * I1. Every text in config_extra is valid for its flag: binding the fields later cannot fail.
 *
 * Thread: the composition root.
 */
#include "server/config_private.h"

#include <ctype.h>
#include <stdlib.h>

#include "base/mem.h"

struct gate {
    const char *name;
    const char *stage;
    bool on;
};

/* Sorted by name, as the help text lists them. */
static const struct gate gates[] = {
    {"AllAlpha", "ALPHA", false},
    {"AllBeta", "BETA", false},
    {"CompactHashCheck", "ALPHA", false},
    {"FastLeaseKeepAlive", "BETA", true},
    {"InitialCorruptCheck", "ALPHA", false},
    {"LeaseCheckpoint", "ALPHA", false},
    {"LeaseCheckpointPersist", "ALPHA", false},
    {"PriorityRequest", "ALPHA", false},
    {"SetMemberLocalAddr", "ALPHA", false},
    {"StopGRPCServiceOnDefrag", "ALPHA", false},
    {"TxnModeWriteWithSharedBuffer", "BETA", true},
};

enum { GATES = sizeof(gates) / sizeof(gates[0]) };

const struct flag *config_flag_find(const char *name)
{
    for (size_t i = 0; i < config_flags_len; i++) {
        if (strcmp(config_flags[i].name, name) == 0)
            return &config_flags[i];
    }
    return NULL;
}

size_t config_flag_index(const struct flag *flag)
{
    return (size_t)(flag - config_flags);
}

const char *config_extra_text(const struct config_extra *x, const char *name)
{
    const struct flag *flag = config_flag_find(name);

    check(flag);
    return x->texts[config_flag_index(flag)];
}

void config_note(struct config_extra *x, const char *text, const char *name, const char *value)
{
    if (x->n_notes < CONFIG_NOTES_MAX)
        x->notes[x->n_notes++] = (struct config_note){text, mem_strdup(name), mem_strdup(value)};
}

/* ---- feature gates: what was set, as 1 (true), 0 (false), -1 (not set) ---- */

static size_t gate_find(const char *name)
{
    size_t i = 0;

    while (i < GATES && strcmp(gates[i].name, name) != 0)
        i++;
    return i;
}

static void gate_set(int set[GATES], size_t i, bool on)
{
    set[i] = on;
    if (strncmp(gates[i].name, "All", 3) != 0)
        return;
    for (size_t j = 0; j < GATES; j++) {
        if (strcmp(gates[j].stage, gates[i].stage) == 0 && set[j] < 0)
            set[j] = on;
    }
}

static char *trim(char *s)
{
    while (isspace((unsigned char)*s))
        s++;
    size_t len = strlen(s);
    while (len > 0 && isspace((unsigned char)s[len - 1]))
        s[--len] = '\0';
    return s;
}

static int gate_pair_parse(char *pair, int set[GATES], char **ret_error)
{
    char *equals = strchr(pair, '=');
    _cleanup_(buf_deinit) struct buf quoted = BUF_NULL;
    bool on;

    if (equals)
        *equals = '\0';
    char *name = trim(pair);
    if (!equals) {
        *ret_error = mem_printf("missing bool value for %s", name);
        return 1;
    }
    char *value = trim(equals + 1);
    if (!go_bool_parse(value, &on)) {
        go_quote(&quoted, value);
        *ret_error =
            mem_printf("invalid value of %s=%s, err: strconv.ParseBool: parsing %s: invalid syntax",
                       name, value, buf_cstr(&quoted));
        return 1;
    }
    size_t i = gate_find(name);
    if (i == GATES) {
        *ret_error = mem_printf("unrecognized feature gate: %s", name);
        return 1;
    }
    gate_set(set, i, on);
    return 0;
}

static int gates_parse(const char *text, int set[GATES], char **ret_error)
{
    struct string_list pairs;
    int r = 0;

    string_list_split(text, false, &pairs);
    for (size_t i = 0; i < pairs.len && r == 0; i++) {
        if (pairs.items[i][0])
            r = gate_pair_parse(pairs.items[i], set, ret_error);
    }
    string_list_deinit(&pairs);
    return r;
}

int config_gates_merge(const char *before, const char *text, char **ret_merged, char **ret_error)
{
    _cleanup_(buf_deinit) struct buf b = BUF_NULL;
    int set[GATES];

    for (size_t i = 0; i < GATES; i++)
        set[i] = -1;
    check(gates_parse(before, set, ret_error) == 0);
    if (gates_parse(text, set, ret_error))
        return 1;
    for (size_t i = 0; i < GATES; i++) {
        if (set[i] >= 0)
            buf_printf(&b, "%s%s=%s", b.len ? "," : "", gates[i].name, set[i] ? "true" : "false");
    }
    *ret_merged = mem_strdup(buf_cstr(&b));
    return 0;
}

bool config_gate_enabled(const struct config_extra *x, const char *gate)
{
    size_t i = gate_find(gate);
    _cleanup_(mem_freep) char *error = NULL;
    int set[GATES];

    check(i < GATES);
    for (size_t j = 0; j < GATES; j++)
        set[j] = -1;
    check(gates_parse(config_extra_text(x, "feature-gates"), set, &error) == 0);
    return set[i] >= 0 ? set[i] : gates[i].on;
}

bool config_gate(const struct config *config, size_t i, struct config_gate *ret)
{
    if (i >= GATES)
        return false;
    *ret = (struct config_gate){gates[i].name, gates[i].stage,
                                config_gate_enabled(config->extra, gates[i].name)};
    return true;
}

bool config_gate_is_on(const struct config *config, const char *name)
{
    return config_gate_enabled(config->extra, name);
}

void config_gates_describe(struct buf *out, const char *indent)
{
    for (size_t i = 0; i < GATES; i++)
        buf_printf(out, "%s%s=true|false (%s - default=%s)\n", indent, gates[i].name,
                   gates[i].stage, gates[i].on ? "true" : "false");
}

/* ---- one value ---- */

static int range_or_syntax(int r, char **ret_error)
{
    if (r)
        *ret_error = mem_strdup(r == 2 ? "value out of range" : "parse error");
    return r != 0;
}

static int set_number(const struct flag *flag, const char *text, char **ret_text, char **ret_error)
{
    _cleanup_(buf_deinit) struct buf quoted = BUF_NULL;
    uint64_t u;
    int64_t i;

    if (flag->type == FLAG_INT) {
        if (range_or_syntax(go_int_parse(text, &i), ret_error))
            return 1;
        *ret_text = mem_printf("%lld", (long long)i);
        return 0;
    }
    int r = go_uint_parse(text, flag->type == FLAG_UINT32 ? UINT32_MAX : UINT64_MAX, &u);
    if (r && flag->type == FLAG_UINT32) {
        go_quote(&quoted, text);
        *ret_error = mem_printf("strconv.ParseUint: parsing %s: %s", buf_cstr(&quoted),
                                r == 2 ? "value out of range" : "invalid syntax");
        return 1;
    }
    if (range_or_syntax(r, ret_error))
        return 1;
    *ret_text = mem_printf("%llu", (unsigned long long)u);
    return 0;
}

static int set_duration(const char *text, char **ret_text, char **ret_error)
{
    _cleanup_(buf_deinit) struct buf b = BUF_NULL;
    int64_t ns;

    if (go_duration_parse(text, &ns, NULL))
        return range_or_syntax(1, ret_error);
    duration_format(&b, ns);
    *ret_text = mem_strdup(buf_cstr(&b));
    return 0;
}

static int set_urls(const struct flag *flag, const char *text, const char *before, char **ret_text,
                    char **ret_error)
{
    _cleanup_(buf_deinit) struct buf b = BUF_NULL;
    struct url_list urls;

    if (flag->type == FLAG_ORIGINS && strcmp(text, "*") == 0) {
        *ret_text = mem_strdup(text);
        return 0;
    }
    if (flag->type == FLAG_URLS && !*text) {
        *ret_text = mem_strdup(before);
        return 0;
    }
    if (url_list_parse(text, &urls, ret_error))
        return 1;
    for (size_t i = 0; i < urls.len; i++)
        buf_printf(&b, "%s%s", i ? "," : "", urls.items[i].text);
    url_list_deinit(&urls);
    *ret_text = mem_strdup(buf_cstr(&b));
    return 0;
}

static int set_choice(const struct flag *flag, const char *text, char **ret_text, char **ret_error)
{
    _cleanup_(buf_deinit) struct buf quoted = BUF_NULL;
    struct string_list words, choices;
    int r = 0;

    string_list_split(text, false, &words);
    string_list_split(flag->choices, false, &choices);
    for (size_t i = 0; i < words.len && r == 0; i++) {
        size_t j = 0;
        while (j < choices.len && strcmp(words.items[i], choices.items[j]) != 0)
            j++;
        if (j == choices.len || (flag->type == FLAG_CHOICE && words.len > 1)) {
            go_quote(&quoted, words.items[i]);
            *ret_error = flag->type == FLAG_CHOICE
                             ? mem_strdup("invalid value")
                             : mem_printf("invalid value %s", buf_cstr(&quoted));
            r = 1;
        }
    }
    string_list_deinit(&words);
    string_list_deinit(&choices);
    if (r == 0)
        *ret_text = mem_strdup(text);
    return r;
}

static int set_unique(const char *text, char **ret_text)
{
    _cleanup_(buf_deinit) struct buf b = BUF_NULL;
    struct string_list list;

    string_list_split(text, true, &list);
    string_list_join(&list, &b);
    string_list_deinit(&list);
    *ret_text = mem_strdup(buf_cstr(&b));
    return 0;
}

static int normalize(const struct flag *flag, const char *text, const char *before, char **ret_text,
                     char **ret_error)
{
    bool b;

    switch (flag->type) {
    case FLAG_BOOL:
        if (!go_bool_parse(text, &b))
            return range_or_syntax(1, ret_error);
        *ret_text = mem_strdup(b ? "true" : "false");
        return 0;
    case FLAG_INT:
    case FLAG_UINT:
    case FLAG_UINT32: return set_number(flag, text, ret_text, ret_error);
    case FLAG_DURATION: return set_duration(text, ret_text, ret_error);
    case FLAG_URLS:
    case FLAG_ORIGINS: return set_urls(flag, text, before, ret_text, ret_error);
    case FLAG_CHOICE:
    case FLAG_CHOICES: return set_choice(flag, text, ret_text, ret_error);
    case FLAG_FEATURE_GATES: return config_gates_merge(before, text, ret_text, ret_error);
    case FLAG_UNIQUE_STRINGS: return set_unique(text, ret_text);
    case FLAG_IGNORED:
    case FLAG_STRING:
    case FLAG_STRINGS: break;
    }
    *ret_text = mem_strdup(text);
    return 0;
}

int config_flag_set(struct config_extra *x, const struct flag *flag, const char *text,
                    char **ret_error)
{
    size_t i = config_flag_index(flag);
    char *normal;

    if (normalize(flag, text, x->texts[i], &normal, ret_error))
        return 1;
    free(x->texts[i]);
    x->texts[i] = normal;
    x->is_set[i] = true;
    return 0;
}

/* ---- names of etcd 3.6 and before ---- */

static const struct {
    const char *name;
    const char *gate;
} experimental_gates[] = {
    {"initial-corrupt-check", "InitialCorruptCheck"},
    {"compact-hash-check-enabled", "CompactHashCheck"},
    {"enable-lease-checkpoint", "LeaseCheckpoint"},
    {"enable-lease-checkpoint-persist", "LeaseCheckpointPersist"},
    {"txn-mode-write-with-shared-buffer", "TxnModeWriteWithSharedBuffer"},
    {"stop-grpc-service-on-defrag", "StopGRPCServiceOnDefrag"},
    {"set-member-localaddr", "SetMemberLocalAddr"},
};

static const char *const experimental_flags[] = {
    "bootstrap-defrag-threshold-megabytes",
    "compact-hash-check-time",
    "compaction-batch-limit",
    "compaction-sleep-interval",
    "corrupt-check-time",
    "distributed-tracing-address",
    "distributed-tracing-instance-id",
    "distributed-tracing-sampling-rate",
    "distributed-tracing-service-name",
    "downgrade-check-time",
    "enable-distributed-tracing",
    "max-learners",
    "memory-mlock",
    "peer-skip-client-san-verification",
    "snapshot-catchup-entries",
    "warning-apply-duration",
    "warning-unary-request-duration",
    "watch-progress-notify-interval",
};

const struct flag *config_experimental_find(const char *name, const char **ret_gate)
{
    static const char prefix[] = "experimental-";

    if (strncmp(name, prefix, sizeof(prefix) - 1) != 0)
        return NULL;
    name += sizeof(prefix) - 1;
    *ret_gate = NULL;
    for (size_t i = 0; i < sizeof(experimental_gates) / sizeof(experimental_gates[0]); i++) {
        if (strcmp(name, experimental_gates[i].name) == 0) {
            *ret_gate = experimental_gates[i].gate;
            return config_flag_find("feature-gates");
        }
    }
    for (size_t i = 0; i < sizeof(experimental_flags) / sizeof(experimental_flags[0]); i++) {
        if (strcmp(name, experimental_flags[i]) == 0)
            return config_flag_find(name);
    }
    return NULL;
}

int config_name_set(struct config_extra *x, const char *name, const char *text, char **ret_error)
{
    const struct flag *flag = config_flag_find(name);
    const char *gate = NULL;
    bool on;

    if (flag)
        return config_flag_set(x, flag, text, ret_error);
    flag = config_experimental_find(name, &gate);
    if (!flag)
        return 2;
    _cleanup_(mem_freep) char *pair = gate ? mem_printf("%s=%s", gate, text) : NULL;
    if (gate && !go_bool_parse(text, &on))
        return range_or_syntax(1, ret_error);
    if (config_flag_set(x, flag, pair ? pair : text, ret_error))
        return 1;
    _cleanup_(mem_freep) char *now =
        pair ? mem_printf("feature-gates=%s", pair) : mem_printf("%s=%s", flag->name, text);
    config_note(x, "the --experimental- name of a flag is accepted for now; use the new one", name,
                now);
    return 0;
}

/* ---- the command line ---- */

static void usage_error(const char *message, int *ret_exit_code)
{
    fprintf(stderr, "%s\n", message);
    config_usage_print(stderr);
    *ret_exit_code = 2;
}

static bool is_boolean(const struct flag *flag, const char *gate)
{
    return flag->type == FLAG_BOOL || flag->type == FLAG_IGNORED || gate;
}

/* One "-name[=value]" or "--name[=value]" without its dashes; *next is the following argument and
 * may be used up. Outcome 2: ended. */
static int arg_parse(struct config_extra *x, const char *arg, char ***next, int *ret_exit_code)
{
    const char *equals = strchr(arg, '='), *value = equals ? equals + 1 : NULL, *gate = NULL;
    _cleanup_(mem_freep) char *name =
        equals ? mem_strndup(arg, (size_t)(equals - arg)) : mem_strdup(arg);
    _cleanup_(mem_freep) char *message = NULL, *error = NULL;
    const struct flag *flag = config_flag_find(name);

    if (!flag)
        flag = config_experimental_find(name, &gate);
    if (!flag && (strcmp(name, "h") == 0 || strcmp(name, "help") == 0)) {
        config_usage_print(stderr);
        config_help_print(stdout);
        *ret_exit_code = 0;
        return 2;
    }
    bool boolean = flag && is_boolean(flag, gate);
    if (flag && !value)
        value = boolean ? "true" : **next ? *(*next)++ : NULL;
    if (!flag) {
        message = mem_printf("flag provided but not defined: -%s", name);
    } else if (!value) {
        message = mem_printf("flag needs an argument: -%s", name);
    } else if (config_name_set(x, name, value, &error)) {
        _cleanup_(buf_deinit) struct buf quoted = BUF_NULL;
        go_quote(&quoted, value);
        message =
            boolean
                ? mem_printf("invalid boolean value %s for -%s: %s", buf_cstr(&quoted), name, error)
                : mem_printf("invalid value %s for flag -%s: %s", buf_cstr(&quoted), name, error);
    }
    if (!message)
        return 0;
    usage_error(message, ret_exit_code);
    return 2;
}

int config_args_parse(struct config_extra *x, int argc, char **argv, char **ret_error,
                      int *ret_exit_code)
{
    char **next = argv + (argc > 0);

    while (*next && (*next)[0] == '-' && (*next)[1]) {
        const char *arg = *next++;
        size_t dashes = arg[1] == '-' ? 2 : 1;
        if (strcmp(arg, "--") == 0)
            break;
        if (arg[dashes] == '-' || arg[dashes] == '=') {
            _cleanup_(mem_freep) char *message = mem_printf("bad flag syntax: %s", arg);
            usage_error(message, ret_exit_code);
            return 2;
        }
        if (arg_parse(x, arg + dashes, &next, ret_exit_code))
            return 2;
    }
    if (!*next)
        return 0;
    _cleanup_(buf_deinit) struct buf quoted = BUF_NULL;
    go_quote(&quoted, *next);
    *ret_error = mem_printf("%s is not a valid flag", buf_cstr(&quoted));
    return 1;
}

/* ---- the environment ---- */

/* "ETCD_DATA_DIR" gives "data-dir". Other spellings name no flag, as in etcd, which goes the other
 * way round. */
static char *env_to_flag(const char *key)
{
    char *name = mem_strdup(key + strlen("ETCD_"));

    for (char *c = name; *c; c++) {
        if (*c == '-' || islower((unsigned char)*c))
            *name = '\0';
        *c = *c == '_' ? '-' : (char)tolower((unsigned char)*c);
    }
    return name;
}

/* What env_apply_one() found, over all variables. */
struct env_result {
    char
        *error; /* that of the last wrong variable by name, as etcd goes through its flags sorted */
    char *error_key;
    bool conflict; /* the variable's flag was on the command line */
};

static void env_apply_one(struct config_extra *x, const bool *on_command_line, const char *key,
                          const char *value, struct env_result *result)
{
    _cleanup_(mem_freep) char *name = env_to_flag(key), *error = NULL;
    const char *gate = NULL;
    const struct flag *flag = config_flag_find(name);

    if (!flag)
        flag = config_experimental_find(name, &gate);
    if (flag && !gate && on_command_line[config_flag_index(flag)]) {
        result->conflict = true;
        return;
    }
    if (!flag || !*value) {
        _cleanup_(mem_freep) char *pair = mem_printf("%s=%s", key, value);
        log_warn("unrecognized environment variable", LOG_STR("environment-variable", pair));
        return;
    }
    if (config_name_set(x, name, value, &error) == 0) {
        log_info("recognized and used environment variable", LOG_STR("variable-name", key),
                 LOG_STR("variable-value", value));
        return;
    }
    if (result->error_key && strcmp(result->error_key, key) > 0)
        return;
    _cleanup_(buf_deinit) struct buf quoted = BUF_NULL;
    go_quote(&quoted, value);
    free(result->error);
    free(result->error_key);
    result->error = mem_printf("invalid value %s for %s: %s", buf_cstr(&quoted), key, error);
    result->error_key = mem_strdup(key);
}

static int env_conflict(const char *key, int *ret_exit_code)
{
    log_fatal("conflicting environment variable is shadowed by corresponding command-line flag "
              "(either unset environment variable or disable flag))",
              LOG_STR("environment-variable", key));
    *ret_exit_code = 1;
    return 2;
}

int config_env_apply(struct config_extra *x, char **environ_, char **ret_error, int *ret_exit_code)
{
    bool on_command_line[CONFIG_FLAGS_MAX];
    struct env_result result = {0};
    int r = 0;

    memcpy(on_command_line, x->is_set, sizeof(on_command_line));
    for (char **e = environ_; r == 0 && e && *e; e++) {
        const char *equals = strchr(*e, '=');
        if (!equals || strncmp(*e, "ETCD_", 5) != 0)
            continue;
        _cleanup_(mem_freep) char *key = mem_strndup(*e, (size_t)(equals - *e));
        if (strcmp(key, "ETCD_VERSION") != 0)
            env_apply_one(x, on_command_line, key, equals + 1, &result);
        else if (equals[1])
            log_warn("cannot set special environment variable", LOG_STR("key", key),
                     LOG_STR("value", equals + 1));
        if (result.conflict)
            r = env_conflict(key, ret_exit_code);
    }
    free(result.error_key);
    if (r == 0 && result.error) {
        *ret_error = result.error;
        return 1;
    }
    free(result.error);
    return r;
}

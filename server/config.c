/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From the command line to a struct config, in etcd's order:
 *
 *   defaults -> command line -> (--version, --help end here) -> configuration file, alone
 *                                                            or environment, for flags that were
 * not given
 *            -> what depends on other values (derive) -> fields (bind) -> checks (config_validate)
 *
 * All values are texts in config_extra until bind; the fields are filled from them in one pass over
 * the table. I1 of config_flags.c (every text is valid) is why that pass has no errors.
 *
 * Thread: the composition root.
 */
#include "server/config_private.h"

#include <arpa/inet.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/mem.h"

enum { COMPACTION_BATCH_LIMIT_DEFAULT = 1000, COMPACTION_SLEEP_DEFAULT_NS = 10000000 };
enum { SNAPSHOT_COUNT_DEFAULT = 10000, SNAPSHOT_CATCHUP_ENTRIES_DEFAULT = 5000 };

static const char version_text[] = "etcd Version: 3.7.1\n"
                                   "Git SHA: none (Cairn " CAIRN_VERSION ")\n"
                                   "Go Version: none (Cairn " CAIRN_VERSION ", C)\n"
                                   "Go OS/Arch: linux/"
#if defined(__x86_64__)
                                   "amd64"
#elif defined(__aarch64__)
                                   "arm64"
#else
                                   "unknown"
#endif
                                   "\n"
                                   "Cairn Version: " CAIRN_VERSION "\n";

static struct config_extra *extra_new(int argc, char **argv)
{
    struct config_extra *x = mem_new(struct config_extra);

    for (size_t i = 0; i < config_flags_len; i++)
        x->texts[i] = mem_strdup(config_flags[i].default_text);
    x->args = mem_alloc((size_t)argc * sizeof(char *) + 1);
    for (int i = 0; i < argc; i++)
        x->args[x->n_args++] = mem_strdup(argv[i]);
    x->file = mem_strdup("");
    return x;
}

static struct config_extra *extra_free(struct config_extra *x)
{
    if (!x)
        return NULL;
    for (size_t i = 0; i < CONFIG_FLAGS_MAX; i++)
        free(x->texts[i]);
    for (size_t i = 0; i < x->n_notes; i++) {
        free(x->notes[i].name);
        free(x->notes[i].value);
    }
    for (size_t i = 0; i < x->n_args; i++)
        free(x->args[i]);
    free(x->args);
    free(x->file);
    free(x->default_host);
    free(x);
    return NULL;
}

static void text_replace(struct config_extra *x, const char *name, char *text)
{
    size_t i = config_flag_index(config_flag_find(name));

    free(x->texts[i]);
    x->texts[i] = text;
}

static bool is_set(const struct config_extra *x, const char *name)
{
    return x->is_set[config_flag_index(config_flag_find(name))];
}

/* ---- derived values ---- */

/*
 * The address of this machine on the route to the outside, as etcd's default host: asked of the
 * kernel by connecting a datagram socket, which sends nothing. NULL: there is no such route.
 */
static char *default_host(void)
{
    struct sockaddr_in a = {
        .sin_family = AF_INET, .sin_port = htons(9), .sin_addr.s_addr = htonl(0xc0000201)};
    socklen_t len = sizeof(a);
    char text[INET_ADDRSTRLEN] = "";
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    if (fd < 0)
        return NULL;
    if (connect(fd, (struct sockaddr *)&a, len) == 0 &&
        getsockname(fd, (struct sockaddr *)&a, &len) == 0)
        inet_ntop(AF_INET, &a.sin_addr, text, sizeof(text));
    close(fd);
    return text[0] ? mem_strdup(text) : NULL;
}

/*
 * A member that listens on every address and was told nothing else must not advertise "localhost":
 * etcd then advertises the address of the default route with the port of the first listener.
 */
static void derive_advertised(struct config_extra *x, const char *listen, const char *advertise,
                              const char *host)
{
    const char *default_text = config_flag_find(advertise)->default_text;
    struct url_list urls;
    char *error = NULL;

    if (!host || strcmp(config_extra_text(x, advertise), default_text) != 0 ||
        !config_extra_text(x, listen)[0])
        return;
    check(url_list_parse(config_extra_text(x, listen), &urls, &error) == 0);
    if (strcmp(urls.items[0].host, "0.0.0.0") == 0) {
        text_replace(x, advertise, mem_printf("http://%s:%u", host, urls.items[0].port));
        if (!x->default_host)
            x->default_host = mem_strdup(host);
    }
    url_list_deinit(&urls);
}

/* --initial-cluster of a member with a name but no cluster given: itself with its peer URLs. */
static void derive_cluster(struct config_extra *x)
{
    _cleanup_(buf_deinit) struct buf b = BUF_NULL;
    const char *name = config_extra_text(x, "name"),
               *cluster = config_extra_text(x, "initial-cluster");
    struct string_list urls;

    if (strcmp(name, "default") == 0 ||
        strcmp(cluster, config_flag_find("initial-cluster")->default_text) != 0)
        return;
    string_list_split(config_extra_text(x, "initial-advertise-peer-urls"), false, &urls);
    for (size_t i = 0; i < urls.len; i++)
        buf_printf(&b, "%s%s=%s", i ? "," : "", name[0] ? name : "default", urls.items[i]);
    string_list_deinit(&urls);
    text_replace(x, "initial-cluster", mem_strdup(buf_cstr(&b)));
}

/* An empty text means the default there, too. */
static void derive_default(struct config_extra *x, const char *name)
{
    if (!config_extra_text(x, name)[0])
        text_replace(x, name, mem_strdup(config_flag_find(name)->default_text));
}

static void derive(struct config_extra *x)
{
    bool from_file = x->file[0];
    bool discovery = config_extra_text(x, "discovery-srv")[0] ||
                     config_extra_text(x, "discovery-endpoints")[0] ||
                     (!from_file && config_extra_text(x, "discovery-srv-name")[0]);

    /* On the command line a listener of one's own has no advertised URL until one is given; the
     * file keeps the default. */
    if (!from_file && is_set(x, "listen-client-urls") && !is_set(x, "advertise-client-urls"))
        text_replace(x, "advertise-client-urls", mem_strdup(""));
    if (discovery && !is_set(x, "initial-cluster"))
        text_replace(x, "initial-cluster", mem_strdup(""));
    _cleanup_(mem_freep) char *host = default_host();
    derive_advertised(x, "listen-peer-urls", "initial-advertise-peer-urls", host);
    derive_cluster(x);
    derive_advertised(x, "listen-client-urls", "advertise-client-urls", host);
    derive_default(x, "log-level");
    derive_default(x, "log-format");
    if (from_file || !is_set(x, "log-outputs"))
        derive_default(x, "log-outputs");
    if (!config_extra_text(x, "data-dir")[0]) {
        text_replace(x, "data-dir", mem_printf("%s.etcd", config_extra_text(x, "name")));
        x->data_dir_derived = true;
    }
}

/* ---- fields ---- */

static uint64_t number(const struct flag *flag, const char *text)
{
    uint64_t u = 0;
    int64_t i = 0;

    if (flag->type == FLAG_DURATION)
        check(go_duration_parse(text, &i, NULL) == 0);
    else if (flag->type == FLAG_INT)
        check(go_int_parse(text, &i) == 0);
    else
        check(go_uint_parse(text, UINT64_MAX, &u) == 0);
    if (flag->type == FLAG_DURATION || flag->type == FLAG_INT)
        u = flag->field == FIELD_U32 && i < 0 ? 0 : (uint64_t)i;
    return u;
}

static void bind_one(const struct flag *flag, const char *text, struct config *config)
{
    void *p = (char *)config + flag->offset;
    char *error = NULL;
    uint64_t n;

    switch (flag->field) {
    case FIELD_NONE: break;
    case FIELD_BOOL: check(go_bool_parse(text, p)); break;
    case FIELD_U32:
        n = number(flag, text);
        *(uint32_t *)p = n > UINT32_MAX ? UINT32_MAX : (uint32_t)n;
        break;
    case FIELD_U64:
    case FIELD_I64: *(uint64_t *)p = number(flag, text); break;
    case FIELD_STRING: *(char **)p = mem_strdup(text); break;
    case FIELD_STRINGS:
        if (*text)
            string_list_split(text, false, p);
        break;
    case FIELD_URLS:
        if (*text)
            check(url_list_parse(text, p, &error) == 0);
        break;
    }
}

static void fields_bind(struct config_extra *x, struct config *config)
{
    *config = (struct config){.extra = x};
    for (size_t i = 0; i < config_flags_len; i++)
        bind_one(&config_flags[i], x->texts[i], config);
    if (config->max_request_bytes > CONFIG_REQUEST_BYTES_MAX)
        config->max_request_bytes = CONFIG_REQUEST_BYTES_MAX;
    if (config->compaction_batch_limit == 0)
        config->compaction_batch_limit = COMPACTION_BATCH_LIMIT_DEFAULT;
    if (config->compaction_sleep_interval_ns <= 0)
        config->compaction_sleep_interval_ns = COMPACTION_SLEEP_DEFAULT_NS;
    if (config->warning_unary_request_duration_ns == 0)
        config->warning_unary_request_duration_ns = 300000000;
    if (config->snapshot_count == 0)
        config->snapshot_count = SNAPSHOT_COUNT_DEFAULT;
    if (config->snapshot_catchup_entries == 0)
        config->snapshot_catchup_entries = SNAPSHOT_CATCHUP_ENTRIES_DEFAULT;
}

/* ---- the whole ---- */

static const char *file_path(const struct config_extra *x, char **environ_)
{
    static const char key[] = "ETCD_CONFIG_FILE=";
    const char *path = config_extra_text(x, "config-file");

    for (char **e = environ_; !*path && e && *e; e++) {
        if (strncmp(*e, key, sizeof(key) - 1) == 0)
            path = *e + sizeof(key) - 1;
    }
    return path;
}

/* Command line, then file or environment, into *x. Outcomes as those of the sources. */
static int sources_apply(struct config_extra **x, int argc, char **argv, char **environ_,
                         char **ret_error, int *ret_exit_code)
{
    int r = config_args_parse(*x, argc, argv, ret_error, ret_exit_code);

    if (r)
        return r;
    if (strcmp(config_extra_text(*x, "version"), "true") == 0) {
        fputs(version_text, stdout);
        *ret_exit_code = 0;
        return 2;
    }
    const char *path = file_path(*x, environ_);
    if (!*path)
        return config_env_apply(*x, environ_, ret_error, ret_exit_code);
    struct config_extra *fresh = extra_new(argc, argv);
    free(fresh->file);
    fresh->file = mem_strdup(path);
    extra_free(*x);
    *x = fresh;
    return config_file_apply(fresh, fresh->file, ret_error);
}

enum config_action config_parse(int argc, char **argv, char **environ_, struct config *ret,
                                int *ret_exit_code)
{
    struct config_extra *x = extra_new(argc, argv);
    _cleanup_(mem_freep) char *error = NULL;
    struct config config = {.extra = x};
    int r = sources_apply(&x, argc, argv, environ_, &error, ret_exit_code);

    config.extra = x;
    if (r == 0) {
        derive(x);
        fields_bind(x, &config);
        r = config_validate(&config, &error);
    }
    if (r == 0) {
        *ret = config;
        return CONFIG_RUN;
    }
    if (r == 1) {
        log_info("Running: ", LOG_STRS("args", (const char *const *)x->args, x->n_args));
        log_warn("failed to verify flags", LOG_STR("error", error));
        if (strncmp(error, "--advertise-client-urls is required", 35) == 0)
            log_warn("advertise client URLs are not set", LOG_STR("error", error));
        *ret_exit_code = 1;
    }
    config_deinit(&config);
    return CONFIG_EXIT;
}

void config_deinit(struct config *config)
{
    for (size_t i = 0; i < config_flags_len; i++) {
        void *p = (char *)config + config_flags[i].offset;
        switch (config_flags[i].field) {
        case FIELD_STRING: free(*(char **)p); break;
        case FIELD_STRINGS: string_list_deinit(p); break;
        case FIELD_URLS: url_list_deinit(p); break;
        default: break;
        }
    }
    extra_free(config->extra);
    *config = (struct config){0};
}

const char *config_text(const struct config *config, const char *flag)
{
    return config_flag_find(flag) ? config_extra_text(config->extra, flag) : NULL;
}

bool config_is_set(const struct config *config, const char *flag)
{
    return config_flag_find(flag) && is_set(config->extra, flag);
}

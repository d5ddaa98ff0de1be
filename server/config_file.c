/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The configuration file: YAML, of which JSON is a part. etcd turns it into JSON and decodes that
 * into Go structs, so the rules are those of encoding/json: field names match in any case, null
 * changes nothing, a number is no string, durations are integers in nanoseconds, the last of two
 * equal keys wins, and unknown fields are passed over (Cairn logs a warning for each). With a file,
 * flags and environment are ignored.
 *
 * Nested fields map to flags: client-transport-security.cert-file is --cert-file,
 * peer-transport-security.cert-file is --peer-cert-file and so on (the table of sections below).
 *
 * Thread: the composition root. The file is untrusted: it is at most CONFIG_FILE_BYTES_MAX long,
 * and only two levels of it are ever looked at.
 */
#include "server/config_private.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <strings.h>
#include <yaml.h>

#include "base/err.h"
#include "base/mem.h"

enum kind { KIND_NULL, KIND_BOOL, KIND_NUMBER, KIND_STRING, KIND_ARRAY, KIND_OBJECT };

static const char *const kind_names[] = {"null", "bool", "number", "string", "array", "object"};

struct field {
    const char *name; /* in the section */
    const char *flag;
};

struct section {
    const char *name;
    const char *go_type;  /* what a value that is no object cannot be decoded into */
    const char *go_path;  /* of its fields in Go's error texts */
    const char *go_owner; /* the Go struct with the section itself */
    const struct field *fields;
    size_t n_fields;
};

static const struct field client_fields[] = {
    {"cert-file", "cert-file"},
    {"key-file", "key-file"},
    {"client-cert-file", "client-cert-file"},
    {"client-key-file", "client-key-file"},
    {"client-cert-auth", "client-cert-auth"},
    {"trusted-ca-file", "trusted-ca-file"},
    {"auto-tls", "auto-tls"},
    {"allowed-cn", "peer-cert-allowed-cn"},
    {"allowed-hostname", "client-cert-allowed-hostname"},
};

static const struct field peer_fields[] = {
    {"cert-file", "peer-cert-file"},
    {"key-file", "peer-key-file"},
    {"client-cert-file", "peer-client-cert-file"},
    {"client-key-file", "peer-client-key-file"},
    {"client-cert-auth", "peer-client-cert-auth"},
    {"trusted-ca-file", "peer-trusted-ca-file"},
    {"auto-tls", "peer-auto-tls"},
    {"allowed-cn", "peer-cert-allowed-cn"},
    {"allowed-hostname", "peer-cert-allowed-hostname"},
    {"skip-client-san-verification", "peer-skip-client-san-verification"},
};

static const struct field socket_fields[] = {{"reuse-port", "socket-reuse-port"},
                                             {"reuse-address", "socket-reuse-address"}};
static const struct field discovery_fields[] = {{"token", "discovery-token"}};

#define SECTION(name, type, path, owner, fields)                                                   \
    {                                                                                              \
        name, type, path, owner, fields, sizeof(fields) / sizeof(fields[0])                        \
    }

static const struct section sections[] = {
    SECTION("client-transport-security", "embed.securityConfig", "securityConfig.configJSON",
            "configJSON", client_fields),
    SECTION("peer-transport-security", "embed.securityConfig", "securityConfig.configJSON",
            "configJSON", peer_fields),
    SECTION("socket-options", "transport.SocketOpts", "SocketOpts.Config", "Config", socket_fields),
    SECTION("discovery-config", "v3discovery.DiscoveryConfig", "DiscoveryConfig.Config", "Config",
            discovery_fields),
};

/* Fields of etcd's configuration that are lists of texts joined by commas in a string, and so
 * decoded by another Go struct. */
static const char *const text_fields[] = {
    "listen-peer-urls",        "listen-client-urls",
    "listen-client-http-urls", "initial-advertise-peer-urls",
    "advertise-client-urls",   "cors",
    "host-whitelist",          "feature-gates",
    "listen-metrics-urls",
};

/* ---- YAML scalars as go-yaml resolves them ---- */

static bool one_of(const char *s, const char *const *words)
{
    for (; *words; words++) {
        if (strcmp(s, *words) == 0)
            return true;
    }
    return false;
}

static bool is_float(const char *s, double *ret)
{
    char *end;

    if (!strpbrk(s, "0123456789") || strspn(s, "0123456789+-.eE_") != strlen(s))
        return false;
    *ret = strtod(s, &end);
    return *end == '\0';
}

/* The value as JSON would have it; *ret_text is malloc'd for all but KIND_NULL. */
static enum kind scalar_resolve(const yaml_node_t *node, char **ret_text)
{
    static const char *const nulls[] = {"", "~", "null", "Null", "NULL", NULL};
    static const char *const yes[] = {"true", "True", "TRUE", "y",  "Y",  "yes",
                                      "Yes",  "YES",  "on",   "On", "ON", NULL};
    static const char *const no[] = {"false", "False", "FALSE", "n",   "N",   "no",
                                     "No",    "NO",    "off",   "Off", "OFF", NULL};
    const char *s = (const char *)node->data.scalar.value;
    int64_t i;
    uint64_t u;
    double d;

    *ret_text = NULL;
    if (node->data.scalar.style != YAML_PLAIN_SCALAR_STYLE) {
        *ret_text = mem_strdup(s);
        return KIND_STRING;
    }
    if (one_of(s, nulls))
        return KIND_NULL;
    if (one_of(s, yes) || one_of(s, no)) {
        *ret_text = mem_strdup(one_of(s, yes) ? "true" : "false");
        return KIND_BOOL;
    }
    if (go_int_parse(s, &i) == 0) {
        *ret_text = mem_printf("%lld", (long long)i);
        return KIND_NUMBER;
    }
    if (go_uint_parse(s, UINT64_MAX, &u) == 0) {
        *ret_text = mem_printf("%llu", (unsigned long long)u);
        return KIND_NUMBER;
    }
    if (is_float(s, &d)) {
        *ret_text = mem_printf(fabs(d) < 1e15 && d == (double)(int64_t)d ? "%.0f" : "%g", d);
        return KIND_NUMBER;
    }
    *ret_text = mem_strdup(s);
    return KIND_STRING;
}

static enum kind node_kind(const yaml_node_t *node, char **ret_text)
{
    *ret_text = NULL;
    switch (node->type) {
    case YAML_SCALAR_NODE: return scalar_resolve(node, ret_text);
    case YAML_SEQUENCE_NODE: return KIND_ARRAY;
    case YAML_MAPPING_NODE: return KIND_OBJECT;
    case YAML_NO_NODE: break;
    }
    return KIND_NULL;
}

/* ---- Go's error texts ---- */

static const char *go_type_name(const struct flag *flag)
{
    switch (flag->type) {
    case FLAG_BOOL: return "bool";
    case FLAG_INT: return strcmp(flag->name, "quota-backend-bytes") == 0 ? "int64" : "int";
    case FLAG_UINT:
        return strcmp(flag->name, "snapshot-count") == 0 ||
                       strcmp(flag->name, "snapshot-catchup-entries") == 0
                   ? "uint64"
                   : "uint";
    case FLAG_UINT32: return "uint32";
    case FLAG_DURATION: return "time.Duration";
    case FLAG_CHOICES: return "config.V2DeprecationEnum";
    default: return "string";
    }
}

static bool is_string_array(const struct flag *flag, const struct section *section)
{
    return flag->type == FLAG_STRINGS || (flag->type == FLAG_UNIQUE_STRINGS && !section &&
                                          strcmp(flag->name, "log-outputs") == 0);
}

static int type_error(enum kind kind, const char *number, const char *path, const char *name,
                      const char *type, char **ret_error)
{
    const char *value = kind == KIND_NUMBER && number ? number : "";

    *ret_error = mem_printf("error unmarshaling JSON: while decoding JSON: json: cannot unmarshal "
                            "%s%s%s into Go struct field %s.%s of type %s",
                            kind_names[kind], value[0] ? " " : "", value, path, name, type);
    return 1;
}

static int yaml_error(const yaml_parser_t *p, char **ret_error)
{
    size_t line = p->context_mark.line ? p->context_mark.line : p->problem_mark.line;

    if (line && p->error == YAML_SCANNER_ERROR)
        line++;
    _cleanup_(mem_freep) char *where = line ? mem_printf("line %zu: ", line) : mem_strdup("");
    *ret_error = mem_printf("error converting YAML to JSON: yaml: %s%s", where,
                            p->problem ? p->problem : "unknown problem parsing YAML content");
    return 1;
}

/* ---- one field ---- */

struct place {
    struct config_extra *x;
    yaml_document_t *document;
    const struct section *section; /* NULL: top level */
    char *path;                    /* Go's, for error texts */
};

/* A list becomes the flag's comma separated text; a text with a comma in it would not survive and
 * is refused. */
static int array_text(const struct place *at, const struct flag *flag, const char *name,
                      const yaml_node_t *node, char **ret_text, char **ret_error)
{
    _cleanup_(buf_deinit) struct buf b = BUF_NULL;

    for (yaml_node_item_t *i = node->data.sequence.items.start; i < node->data.sequence.items.top;
         i++) {
        _cleanup_(mem_freep) char *text = NULL;
        enum kind kind = node_kind(yaml_document_get_node(at->document, *i), &text);
        if (kind != KIND_STRING && kind != KIND_NULL)
            return type_error(kind, NULL, at->path, name, "string", ret_error);
        if (text && strchr(text, ',')) {
            *ret_error = mem_printf("a comma in a value of %s is not supported", flag->name);
            return 1;
        }
        buf_printf(&b, "%s%s", b.len ? "," : "", text ? text : "");
    }
    *ret_text = mem_strdup(buf_cstr(&b));
    return 0;
}

/* The text with which the flag is set; outcome 2: null, nothing is set. */
static int field_text(const struct place *at, const struct flag *flag, const char *name,
                      const yaml_node_t *node, char **ret_text, char **ret_error)
{
    _cleanup_(mem_freep) char *text = NULL;
    enum kind kind = node_kind(node, &text), wanted;
    bool array = is_string_array(flag, at->section), integer = false;
    int64_t i;
    uint64_t u;

    if (kind == KIND_NULL)
        return 2;
    if (array && kind == KIND_ARRAY)
        return array_text(at, flag, name, node, ret_text, ret_error);
    switch (flag->type) {
    case FLAG_BOOL: wanted = KIND_BOOL; break;
    case FLAG_INT:
    case FLAG_UINT:
    case FLAG_UINT32:
    case FLAG_DURATION:
        wanted = KIND_NUMBER;
        integer = true;
        break;
    default: wanted = KIND_STRING; break;
    }
    if (kind != wanted || array)
        return type_error(kind, NULL, at->path, name, array ? "[]string" : go_type_name(flag),
                          ret_error);
    if (integer) {
        bool is_signed = flag->type == FLAG_INT || flag->type == FLAG_DURATION;
        uint64_t max = flag->type == FLAG_UINT32 ? UINT32_MAX : UINT64_MAX;
        if (is_signed ? go_int_parse(text, &i) : go_uint_parse(text, max, &u))
            return type_error(kind, text, at->path, name, go_type_name(flag), ret_error);
    }
    *ret_text = flag->type == FLAG_DURATION ? mem_printf("%sns", text) : mem_strdup(text);
    return 0;
}

static bool is_text_field(const char *name)
{
    for (size_t i = 0; i < sizeof(text_fields) / sizeof(text_fields[0]); i++) {
        if (strcmp(name, text_fields[i]) == 0)
            return true;
    }
    return false;
}

static int flag_apply(const struct place *at, const struct flag *flag, const char *name,
                      const yaml_node_t *node, char **ret_error)
{
    _cleanup_(mem_freep) char *text = NULL, *error = NULL;
    struct place here = *at;
    char path[] = "configYAML.configJSON";

    if (!at->section && is_text_field(flag->name) && strcmp(flag->name, "listen-metrics-urls") != 0)
        here.path = path;
    int r = field_text(&here, flag, name, node, &text, ret_error);
    if (r == 2) {
        at->x->is_set[config_flag_index(flag)] = true;
        return 0;
    }
    if (r)
        return 1;
    /* etcd takes these from the file only if they say something, and --v2-deprecation not at all.
     */
    if (flag->type == FLAG_CHOICES) {
        at->x->is_set[config_flag_index(flag)] = true;
        return 0;
    }
    if (!*text && (is_text_field(flag->name) || flag->type == FLAG_CHOICE))
        return 0;
    if (config_flag_set(at->x, flag, text, &error) == 0)
        return 0;
    if (flag->type == FLAG_URLS || flag->type == FLAG_ORIGINS)
        *ret_error = mem_printf("unexpected error setting up %s: %s", name, error);
    else if (strcmp(flag->name, "initial-cluster-state") == 0)
        *ret_error = mem_printf("unexpected clusterState \"%s\"", text);
    else
        *ret_error = mem_strdup(error);
    return 1;
}

/* ---- names ---- */

static const struct flag *top_flag_find(const char *key)
{
    for (size_t i = 0; i < config_flags_len; i++) {
        const struct flag *flag = &config_flags[i];
        bool nested = strncmp(flag->name, "socket-reuse-", 13) == 0 ||
                      (strncmp(flag->name, "discovery-", 10) == 0 &&
                       strncmp(flag->name, "discovery-srv", 13) != 0) ||
                      (flag->group == GROUP_SECURITY && flag->effect == EFFECT_REFUSED);
        if (!flag->no_file && !nested && strcasecmp(flag->name, key) == 0)
            return flag;
    }
    return NULL;
}

static const struct flag *section_flag_find(const struct section *section, const char *key)
{
    for (size_t i = 0; i < section->n_fields; i++) {
        if (strcasecmp(section->fields[i].name, key) == 0)
            return config_flag_find(section->fields[i].flag);
    }
    return NULL;
}

static void unknown_note(const struct place *at, const char *key)
{
    _cleanup_(mem_freep) char *name =
        at->section ? mem_printf("%s.%s", at->section->name, key) : mem_strdup(key);

    config_note(at->x, "unknown field in the configuration file", name, "");
}

static int mapping_apply(const struct place *at, const yaml_node_t *mapping, char **ret_error);

/* Outcome 2: key names no section. */
static int section_apply(const struct place *at, const char *key, const yaml_node_t *node,
                         char **ret_error)
{
    _cleanup_(mem_freep) char *text = NULL;

    for (size_t i = 0; i < sizeof(sections) / sizeof(sections[0]); i++) {
        const struct section *s = &sections[i];
        if (strcasecmp(key, s->name) != 0)
            continue;
        enum kind kind = node_kind(node, &text);
        if (kind == KIND_NULL && strcmp(s->name, "peer-transport-security") == 0) {
            *ret_error = mem_strdup("invalid peer-transport-security");
            return 1;
        }
        if (kind == KIND_NULL)
            return 0;
        _cleanup_(mem_freep) char *owner = mem_printf("configYAML.%s", s->go_owner);
        if (kind != KIND_OBJECT)
            return type_error(kind, NULL, owner, s->name, s->go_type, ret_error);
        struct place inside = {at->x, at->document, s, mem_printf("%s.%s", s->go_path, s->name)};
        int r = mapping_apply(&inside, node, ret_error);
        free(inside.path);
        return r;
    }
    return 2;
}

/* Old names are taken from the file too; a feature's value there is a boolean. */
static int old_name_apply(const struct place *at, const char *key, const yaml_node_t *node,
                          char **ret_error)
{
    _cleanup_(mem_freep) char *text = NULL;
    const char *gate;
    const struct flag *flag = config_experimental_find(key, &gate);

    if (!flag) {
        unknown_note(at, key);
        return 0;
    }
    if (gate) {
        enum kind kind = node_kind(node, &text);
        if (kind != KIND_BOOL)
            return kind == KIND_NULL ? 0 : type_error(kind, NULL, at->path, key, "bool", ret_error);
        return config_name_set(at->x, key, text, ret_error);
    }
    config_note(at->x, "the --experimental- name of a flag is accepted for now; use the new one",
                key, flag->name);
    return flag_apply(at, flag, key, node, ret_error);
}

static int entry_apply(const struct place *at, const char *key, const yaml_node_t *node,
                       char **ret_error)
{
    const struct flag *flag =
        at->section ? section_flag_find(at->section, key) : top_flag_find(key);

    if (flag)
        return flag_apply(at, flag, at->section ? key : flag->name, node, ret_error);
    if (!at->section) {
        int r = section_apply(at, key, node, ret_error);
        if (r != 2)
            return r;
        return old_name_apply(at, key, node, ret_error);
    }
    if (strcmp(at->section->name, "discovery-config") == 0)
        return config_flag_set(at->x, config_flag_find("discovery-endpoints"), "(discovery-config)",
                               ret_error);
    unknown_note(at, key);
    return 0;
}

static int mapping_apply(const struct place *at, const yaml_node_t *mapping, char **ret_error)
{
    for (yaml_node_pair_t *p = mapping->data.mapping.pairs.start;
         p < mapping->data.mapping.pairs.top; p++) {
        const yaml_node_t *key = yaml_document_get_node(at->document, p->key);
        const yaml_node_t *value = yaml_document_get_node(at->document, p->value);
        if (key->type != YAML_SCALAR_NODE) {
            *ret_error = mem_strdup("error converting YAML to JSON: yaml: invalid map key");
            return 1;
        }
        if (entry_apply(at, (const char *)key->data.scalar.value, value, ret_error))
            return 1;
    }
    return 0;
}

/* ---- the file ---- */

static int document_apply(struct config_extra *x, yaml_document_t *document, char **ret_error)
{
    yaml_node_t *root = yaml_document_get_root_node(document);
    _cleanup_(mem_freep) char *text = NULL;
    char path[] = "configYAML.Config";
    struct place at = {x, document, NULL, path};

    if (!root)
        return 0;
    enum kind kind = node_kind(root, &text);
    if (kind == KIND_NULL)
        return 0;
    if (kind != KIND_OBJECT) {
        *ret_error = mem_printf("error unmarshaling JSON: while decoding JSON: json: cannot "
                                "unmarshal %s into Go value of type embed.configYAML",
                                kind_names[kind]);
        return 1;
    }
    return mapping_apply(&at, root, ret_error);
}

static int file_read(const char *path, struct buf *ret, char **ret_error)
{
    FILE *f = fopen(path, "re");
    size_t n;

    if (!f) {
        *ret_error = mem_printf("open %s: %s", path, err_text(errno).text);
        return 1;
    }
    errno = 0;
    buf_reserve(ret, CONFIG_FILE_BYTES_MAX + 1);
    n = fread(ret->data, 1, CONFIG_FILE_BYTES_MAX + 1, f);
    int error = ferror(f) ? errno : 0;
    fclose(f);
    if (error)
        *ret_error = mem_printf("read %s: %s", path, err_text(error).text);
    else if (n > CONFIG_FILE_BYTES_MAX)
        *ret_error = mem_printf("read %s: file too large", path);
    else
        ret->len = n;
    return error || n > CONFIG_FILE_BYTES_MAX;
}

int config_file_apply(struct config_extra *x, const char *path, char **ret_error)
{
    _cleanup_(buf_deinit) struct buf content = BUF_NULL;
    yaml_parser_t parser;
    yaml_document_t document;

    if (file_read(path, &content, ret_error))
        return 1;
    check(yaml_parser_initialize(&parser));
    yaml_parser_set_input_string(&parser, content.data, content.len);
    int r;
    if (!yaml_parser_load(&parser, &document)) {
        r = yaml_error(&parser, ret_error);
    } else {
        r = document_apply(x, &document, ret_error);
        yaml_document_delete(&document);
    }
    yaml_parser_delete(&parser);
    return r;
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * JSON of members (see member_json.h).
 *
 * jansson reads it, but its integers end at 2^63 and ids don't. So the numbers are put in quotes
 * before it sees them, with a mark in front that keeps them apart from texts; what was a number
 * reaches us as its very digits.
 *
 * Limits of the reading: the text's length, jansson's own depth of 2,048, and the number of members
 * of a list.
 *
 * Thread: any.
 */
#include "server/member_json.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>

#include "base/mem.h"

/* ---- writing ---- */

/* Go's encoder escapes <, > and & too. */
static void append_ascii(struct buf *out, unsigned char c)
{
    static const char named[] = "\bb\ff\nn\rr\tt\"\"\\\\";
    const char *p = named;

    while (*p && (unsigned char)*p != c)
        p += 2;
    if (*p)
        buf_printf(out, "\\%c", p[1]);
    else if (c < 0x20 || c == '<' || c == '>' || c == '&')
        buf_printf(out, "\\u%04x", c);
    else
        buf_append_u8(out, c);
}

static bool is_utf8(const char *s)
{
    json_t *value = json_string(s);
    bool ok = value != NULL;

    json_decref(value);
    return ok;
}

/* What is no text must not be stored as one: no JSON parser would read it back. */
static void append_text(struct buf *out, const char *s)
{
    bool valid = is_utf8(s);

    buf_append_u8(out, '"');
    for (const char *p = s; *p; p++) {
        unsigned char c = (unsigned char)*p;
        if (c < 0x80) {
            append_ascii(out, c);
        } else if (!valid) {
            buf_append_str(out, "\\ufffd");
        } else if (strncmp(p, "\u2028", 3) == 0 || strncmp(p, "\u2029", 3) == 0) {
            buf_printf(out, "\\u202%c", p[2] == '\xa8' ? '8' : '9');
            p += 2;
        } else {
            buf_append_u8(out, c);
        }
    }
    buf_append_u8(out, '"');
}

static void append_texts(struct buf *out, char *const *items, size_t n)
{
    if (!items) {
        buf_append_str(out, "null");
        return;
    }
    buf_append_u8(out, '[');
    for (size_t i = 0; i < n; i++) {
        if (i > 0)
            buf_append_u8(out, ',');
        append_text(out, items[i]);
    }
    buf_append_u8(out, ']');
}

void member_json(struct buf *out, const struct member *m)
{
    buf_printf(out, "{\"id\":%" PRIu64 ",\"peerURLs\":", m->id);
    append_texts(out, m->peer_urls, m->n_peer_urls);
    if (m->is_learner)
        buf_append_str(out, ",\"isLearner\":true");
    if (m->name && m->name[0]) {
        buf_append_str(out, ",\"name\":");
        append_text(out, m->name);
    }
    if (m->n_client_urls > 0) {
        buf_append_str(out, ",\"clientURLs\":");
        append_texts(out, m->client_urls, m->n_client_urls);
    }
    buf_append_u8(out, '}');
}

void member_json_promotion(struct buf *out, uint64_t member_id)
{
    buf_printf(out, "{\"id\":%" PRIu64 ",\"peerURLs\":null,\"isPromote\":true}", member_id);
}

void member_json_list(struct buf *out, const struct member_list *list)
{
    buf_append_u8(out, '[');
    for (size_t i = 0; i < list->len; i++) {
        if (i > 0)
            buf_append_u8(out, ',');
        member_json(out, &list->items[i]);
    }
    buf_append_str(out, "]\n");
}

/* ---- reading ---- */

/* U+0001 in front of a number, and U+0002 in front of a text that begins with one of the two. */
static const char number_mark[] = "\\u0001", text_mark[] = "\\u0002";

static bool is_number_char(uint8_t c)
{
    return (c >= '0' && c <= '9') || c == '-' || c == '+' || c == '.' || c == 'e' || c == 'E';
}

/* The end of the string that begins at i. */
static size_t string_end(struct bytes text, size_t i)
{
    for (i++; i < text.len && text.data[i] != '"'; i++) {
        if (text.data[i] == '\\')
            i++;
    }
    return i < text.len ? i + 1 : text.len;
}

static size_t number_end(struct bytes text, size_t i)
{
    while (i < text.len && is_number_char(text.data[i]))
        i++;
    return i;
}

static bool has_mark(struct bytes string)
{
    size_t len = sizeof(number_mark) - 1;

    return string.len > len && (memcmp(string.data + 1, number_mark, len) == 0 ||
                                memcmp(string.data + 1, text_mark, len) == 0);
}

/* Outside of strings the characters of "true", "false" and "null" begin no number. */
static void numbers_quote(struct bytes text, struct buf *out)
{
    for (size_t i = 0, end; i < text.len; i = end) {
        uint8_t c = text.data[i];
        bool number = (c >= '0' && c <= '9') || c == '-';
        end = c == '"' ? string_end(text, i) : number ? number_end(text, i) : i + 1;
        if (number) {
            buf_printf(out, "\"%s", number_mark);
        } else if (c == '"' && has_mark(bytes_of(text.data + i, end - i))) {
            buf_printf(out, "\"%s", text_mark);
            i++;
        }
        buf_append(out, text.data + i, end - i);
        if (number)
            buf_append_u8(out, '"');
    }
}

/* NULL: no JSON. */
static json_t *load(struct bytes text)
{
    _cleanup_(buf_deinit) struct buf quoted = BUF_NULL;

    if (text.len > MEMBER_JSON_BYTES_MAX)
        return NULL;
    numbers_quote(text, &quoted);
    return json_loadb(buf_cstr(&quoted), quoted.len, 0, NULL);
}

/* A number of JSON that is an unsigned integer: digits, none of them a zero in front. */
static bool id_parse(const json_t *value, uint64_t *ret)
{
    const char *s = json_string_value(value);
    uint64_t id = 0;

    if (!s || s[0] != '\x01' || s[1] == '\0' || (s[1] == '0' && s[2] != '\0'))
        return false;
    for (s++; *s; s++) {
        if (*s < '0' || *s > '9' || __builtin_mul_overflow(id, 10u, &id) ||
            __builtin_add_overflow(id, (uint64_t)(*s - '0'), &id))
            return false;
    }
    *ret = id;
    return true;
}

static bool is_absent(const json_t *value)
{
    return !value || json_is_null(value);
}

static bool flag_parse(const json_t *value, bool *ret)
{
    *ret = json_is_true(value);
    return is_absent(value) || json_is_boolean(value);
}

static bool text_parse(const json_t *value, char **ret)
{
    const char *s = is_absent(value) ? "" : json_string_value(value);

    if (!s || s[0] == '\x01')
        return false;
    *ret = mem_strdup(s[0] == '\x02' ? s + 1 : s);
    return true;
}

/* What is there already stays the caller's to free, also on failure. */
static bool texts_parse(const json_t *value, char ***ret, size_t *ret_n)
{
    size_t n = json_array_size(value);

    if (is_absent(value))
        return true;
    if (!json_is_array(value))
        return false;
    *ret = mem_alloc((n + 1) * sizeof(**ret));
    for (size_t i = 0; i < n; i++) {
        const json_t *item = json_array_get(value, i);
        if (is_absent(item) || !text_parse(item, &(*ret)[i]))
            return false;
        *ret_n = i + 1;
    }
    return true;
}

static bool member_parse(const json_t *object, struct member *ret)
{
    const json_t *id = json_object_get(object, "id");

    *ret = (struct member){0};
    return json_is_object(object) && (is_absent(id) || id_parse(id, &ret->id)) &&
           texts_parse(json_object_get(object, "peerURLs"), &ret->peer_urls, &ret->n_peer_urls) &&
           flag_parse(json_object_get(object, "isLearner"), &ret->is_learner) &&
           text_parse(json_object_get(object, "name"), &ret->name) &&
           texts_parse(json_object_get(object, "clientURLs"), &ret->client_urls,
                       &ret->n_client_urls);
}

int member_json_parse(struct bytes text, struct member *ret, bool *ret_is_promotion)
{
    json_t *root = load(text);
    struct member m;
    bool is_promotion, ok = member_parse(root, &m) &&
                            flag_parse(json_object_get(root, "isPromote"), &is_promotion);

    json_decref(root);
    if (!ok) {
        member_deinit(&m);
        return MEMBER_JSON_E_INVALID;
    }
    *ret = m;
    if (ret_is_promotion)
        *ret_is_promotion = is_promotion;
    return 0;
}

static bool list_parse(const json_t *array, struct member_list *list)
{
    size_t n = json_array_size(array);

    if (!json_is_array(array) || n > MEMBER_JSON_LIST_MAX)
        return false;
    list->items = mem_alloc((n + 1) * sizeof(*list->items));
    for (; list->len < n; list->len++) {
        if (!member_parse(json_array_get(array, list->len), &list->items[list->len])) {
            list->len++; /* what was read of it is freed, too */
            return false;
        }
    }
    return true;
}

int member_json_list_parse(struct bytes text, struct member_list *ret)
{
    struct member_list list = {0};
    json_t *root = load(text);
    bool ok = list_parse(root, &list);

    json_decref(root);
    if (!ok) {
        member_list_deinit(&list);
        return MEMBER_JSON_E_INVALID;
    }
    *ret = list;
    return 0;
}

/* ---- downgrades ---- */

void member_json_downgrade(struct buf *out, const struct downgrade *downgrade)
{
    buf_append_str(out, "{\"target-version\":");
    append_text(out, downgrade->target);
    buf_printf(out, ",\"enabled\":%s}", downgrade->enabled ? "true" : "false");
}

int member_json_downgrade_parse(struct bytes text, struct downgrade *ret)
{
    json_t *root = json_loadb((const char *)text.data, text.len, 0, NULL);
    const json_t *target = json_object_get(root, "target-version");
    const char *version = is_absent(target) ? "" : json_string_value(target);
    struct downgrade downgrade;
    bool ok = json_is_object(root) && version && strlen(version) < sizeof(downgrade.target) &&
              flag_parse(json_object_get(root, "enabled"), &downgrade.enabled);

    if (ok) {
        snprintf(downgrade.target, sizeof(downgrade.target), "%s", version);
        *ret = downgrade;
    }
    json_decref(root);
    return ok ? 0 : MEMBER_JSON_E_INVALID;
}

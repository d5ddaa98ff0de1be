/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The member table (see member.h). Stored: 'c' id -> member JSON, 'm' "cluster_version" -> text.
 * JSON as etcd writes it:
 *
 *     {"id":3751265251792375925,"peerURLs":["http://127.0.0.1:2380"],"isLearner":true,
 *      "name":"a","clientURLs":["http://127.0.0.1:2379"]}       (in one line)
 *
 * isLearner only if true, name and clientURLs only if not empty. Ids are 64-bit unsigned numbers,
 * which jansson can't hold above 2^63: they are cut out of the text and put into it by hand.
 *
 * Thread: see member.h.
 */
#include "server/member.h"

#include <inttypes.h>
#include <jansson.h>
#include <pthread.h>

#include "base/check.h"
#include "base/digest.h"
#include "base/err.h"
#include "base/log.h"
#include "base/mem.h"
#include "storage/schema.h"

enum { MEMBERS_MAX = 64 };

static const char version_key[] = "cluster_version";

struct members {
    pthread_mutex_t lock;
    struct member items[MEMBERS_MAX]; /* ascending by id */
    size_t len;
    char cluster_version[16];
};

static void strings_free(char **items, size_t n)
{
    for (size_t i = 0; i < n; i++)
        free(items[i]);
    free(items);
}

static char **strings_copy(char *const *items, size_t n)
{
    char **copy = mem_alloc((n + 1) * sizeof(*copy));

    for (size_t i = 0; i < n; i++)
        copy[i] = mem_strdup(items[i]);
    return copy;
}

static void member_clear(struct member *m)
{
    strings_free(m->peer_urls, m->n_peer_urls);
    strings_free(m->client_urls, m->n_client_urls);
    free(m->name);
    *m = (struct member){0};
}

/* ---- JSON ---- */

/* Go's encoder escapes <, > and & too. */
static void append_json_ascii(struct buf *out, unsigned char c)
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
static void append_json_string(struct buf *out, const char *s)
{
    bool valid = is_utf8(s);

    buf_append_u8(out, '"');
    for (const char *p = s; *p; p++) {
        unsigned char c = (unsigned char)*p;
        if (c < 0x80) {
            append_json_ascii(out, c);
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

static void append_json_strings(struct buf *out, char *const *items, size_t n)
{
    buf_append_u8(out, '[');
    for (size_t i = 0; i < n; i++) {
        if (i > 0)
            buf_append_u8(out, ',');
        append_json_string(out, items[i]);
    }
    buf_append_u8(out, ']');
}

void member_json(struct buf *out, const struct member *m)
{
    buf_printf(out, "{\"id\":%" PRIu64 ",\"peerURLs\":", m->id);
    append_json_strings(out, m->peer_urls, m->n_peer_urls);
    if (m->is_learner)
        buf_append_str(out, ",\"isLearner\":true");
    if (m->name && m->name[0]) {
        buf_append_str(out, ",\"name\":");
        append_json_string(out, m->name);
    }
    if (m->n_client_urls > 0) {
        buf_append_str(out, ",\"clientURLs\":");
        append_json_strings(out, m->client_urls, m->n_client_urls);
    }
    buf_append_u8(out, '}');
}

static bool strings_parse(const json_t *array, char ***ret, size_t *ret_n)
{
    size_t n = json_array_size(array);
    char **items = mem_alloc((n + 1) * sizeof(*items));

    for (size_t i = 0; i < n; i++) {
        const char *s = json_string_value(json_array_get(array, i));
        if (!s) {
            strings_free(items, i);
            return false;
        }
        items[i] = mem_strdup(s);
    }
    *ret = items;
    *ret_n = n;
    return true;
}

/* Accepts what member_json() and etcd write. id comes from where the record is filed, since
 * jansson's integers are signed. */
static bool member_parse(struct bytes text, uint64_t id, struct member *ret)
{
    struct member m = {.id = id};
    json_t *root = json_loadb((const char *)text.data, text.len, JSON_DECODE_INT_AS_REAL, NULL);
    bool ok = json_is_object(root) &&
              strings_parse(json_object_get(root, "peerURLs"), &m.peer_urls, &m.n_peer_urls) &&
              strings_parse(json_object_get(root, "clientURLs"), &m.client_urls, &m.n_client_urls);

    if (ok) {
        const char *name = json_string_value(json_object_get(root, "name"));
        m.is_learner = json_is_true(json_object_get(root, "isLearner"));
        m.name = mem_strdup(name ? name : "");
        *ret = m;
    } else {
        member_clear(&m);
    }
    json_decref(root);
    return ok;
}

/* ---- the table ---- */

static struct member *find(struct members *m, uint64_t id)
{
    for (size_t i = 0; i < m->len; i++) {
        if (m->items[i].id == id)
            return &m->items[i];
    }
    return NULL;
}

/* Takes the member. */
static bool insert(struct members *m, struct member *member)
{
    size_t i = m->len;

    if (m->len == MEMBERS_MAX)
        return false;
    for (; i > 0 && m->items[i - 1].id > member->id; i--)
        m->items[i] = m->items[i - 1];
    m->items[i] = *member;
    m->len++;
    return true;
}

static int load_members(struct members *m, struct db *db)
{
    const uint8_t first = 'c', end = 'd';
    struct db_iter *it = db_iter_new(db, &(struct db_iter_options){.upper = bytes_of(&end, 1)});
    int r;

    for (db_iter_seek(it, bytes_of(&first, 1)); db_iter_valid(it); db_iter_next(it)) {
        struct bytes key = db_iter_key(it);
        struct member member;
        if (key.len != 9 || !member_parse(db_iter_value(it), u64_be_get(key.data + 1), &member) ||
            !insert(m, &member)) {
            log_error("member record is not readable", LOG_BYTES("record", db_iter_value(it)));
            db_iter_free(it);
            return err_origin(-EBADMSG);
        }
    }
    r = db_iter_error(it);
    db_iter_free(it);
    return r;
}

static int load_version(struct members *m, struct db *db)
{
    struct buf key = BUF_NULL;
    struct db_value value = {0};
    int r;

    schema_meta(&key, version_key);
    r = db_get(db, NULL, buf_bytes(&key), &value);
    if (r == 0 && value.bytes.len < sizeof(m->cluster_version))
        memcpy(m->cluster_version, value.bytes.data, value.bytes.len);
    db_value_release(&value);
    buf_deinit(&key);
    return r == DB_E_NOT_FOUND ? 0 : r;
}

int members_open(struct members **ret, struct db *db)
{
    struct members *m = mem_new(struct members);
    int r;

    pthread_mutex_init(&m->lock, NULL);
    r = load_members(m, db);
    if (r == 0)
        r = load_version(m, db);
    if (r < 0) {
        members_close(m);
        return err_trace(r);
    }
    *ret = m;
    return 0;
}

struct members *members_close(struct members *m)
{
    if (!m)
        return NULL;
    for (size_t i = 0; i < m->len; i++)
        member_clear(&m->items[i]);
    pthread_mutex_destroy(&m->lock);
    free(m);
    return NULL;
}

void members_visit(struct members *m, void (*visit)(void *arg, const struct member *member),
                   void *arg)
{
    pthread_mutex_lock(&m->lock);
    for (size_t i = 0; i < m->len; i++)
        visit(arg, &m->items[i]);
    pthread_mutex_unlock(&m->lock);
}

void members_cluster_version(struct members *m, char ret[16])
{
    pthread_mutex_lock(&m->lock);
    memcpy(ret, m->cluster_version, sizeof(m->cluster_version));
    pthread_mutex_unlock(&m->lock);
}

static void ids_push(struct raft_ids *ids, uint64_t id)
{
    ids->ids = mem_realloc(ids->ids, (ids->len + 1) * sizeof(*ids->ids));
    ids->ids[ids->len++] = id;
}

void members_conf(struct members *m, struct raft_conf_state *ret)
{
    *ret = (struct raft_conf_state){0};
    pthread_mutex_lock(&m->lock);
    for (size_t i = 0; i < m->len; i++)
        ids_push(m->items[i].is_learner ? &ret->learners : &ret->voters, m->items[i].id);
    pthread_mutex_unlock(&m->lock);
}

void raft_conf_state_clear(struct raft_conf_state *conf)
{
    free(conf->voters.ids);
    free(conf->learners.ids);
    free(conf->voters_outgoing.ids);
    free(conf->learners_next.ids);
    *conf = (struct raft_conf_state){0};
}

/* ---- apply ---- */

static void store(struct db_batch *batch, const struct member *member)
{
    struct buf key = BUF_NULL, value = BUF_NULL;

    schema_member(&key, member->id);
    member_json(&value, member);
    db_batch_put(batch, buf_bytes(&key), buf_bytes(&value));
    buf_deinit(&key);
    buf_deinit(&value);
}

static int add_member(struct members *m, struct db_batch *batch, const Raftpb__ConfChange *change,
                      bool learner, uint64_t *ret_node)
{
    struct member member;

    *ret_node = 0;
    if (find(m, change->node_id))
        return 0;
    if (!member_parse(bytes_of(change->context.data, change->context.len), change->node_id,
                      &member))
        return err_origin(-EBADMSG);
    member.is_learner = learner;
    if (!insert(m, &member)) {
        member_clear(&member);
        return 0;
    }
    store(batch, find(m, change->node_id));
    *ret_node = change->node_id;
    return 0;
}

int members_apply_conf_change(struct members *m, struct db_batch *batch,
                              const Raftpb__ConfChange *change, struct raft_conf_single *ret)
{
    uint64_t node = 0;
    int r;

    if (change->type != RAFTPB__CONF_CHANGE_TYPE__ConfChangeAddNode) {
        log_error("configuration change of a kind that this version can't apply",
                  LOG_U64("type", (uint64_t)change->type));
        return err_origin(-EOPNOTSUPP);
    }
    pthread_mutex_lock(&m->lock);
    r = add_member(m, batch, change, false, &node);
    pthread_mutex_unlock(&m->lock);
    if (r < 0)
        return r;
    *ret = (struct raft_conf_single){.type = RAFT_CONF_ADD_NODE, .node_id = node};
    log_info("added member", LOG_ID("added-peer-id", change->node_id),
             LOG_BOOL("accepted", node != 0));
    return 0;
}

int members_apply_attributes(struct members *m, struct db_batch *batch,
                             const Membershippb__ClusterMemberAttrSetRequest *request)
{
    const Membershippb__Attributes *a = request->member_attributes;
    struct member *member;

    pthread_mutex_lock(&m->lock);
    member = find(m, request->member_id);
    if (member && a) {
        free(member->name);
        strings_free(member->client_urls, member->n_client_urls);
        member->name = mem_strdup(a->name);
        member->client_urls = strings_copy(a->client_urls, a->n_client_urls);
        member->n_client_urls = a->n_client_urls;
        store(batch, member);
    }
    pthread_mutex_unlock(&m->lock);
    return member ? 0 : 1;
}

int members_apply_version(struct members *m, struct db_batch *batch, const char *version)
{
    struct buf key = BUF_NULL;

    if (strlen(version) >= sizeof(m->cluster_version))
        return err_origin(-EBADMSG);
    pthread_mutex_lock(&m->lock);
    snprintf(m->cluster_version, sizeof(m->cluster_version), "%s", version);
    pthread_mutex_unlock(&m->lock);
    schema_meta(&key, version_key);
    db_batch_put(batch, buf_bytes(&key), bytes_str(version));
    buf_deinit(&key);
    log_info("set cluster version", LOG_STR("cluster-version", version));
    return 0;
}

/* ---- ids ---- */

uint64_t member_id_of(char *const *sorted_urls, size_t n, const char *token)
{
    struct buf text = BUF_NULL;
    uint8_t digest[SHA1_LEN];

    for (size_t i = 0; i < n; i++)
        buf_append_str(&text, sorted_urls[i]);
    buf_append_str(&text, token);
    sha1(buf_bytes(&text), digest);
    buf_deinit(&text);
    return u64_be_get(digest);
}

uint64_t cluster_id_of(const uint64_t *sorted_member_ids, size_t n)
{
    struct buf text = BUF_NULL;
    uint8_t digest[SHA1_LEN];

    for (size_t i = 0; i < n; i++)
        buf_append_u64_be(&text, sorted_member_ids[i]);
    sha1(buf_bytes(&text), digest);
    buf_deinit(&text);
    return u64_be_get(digest);
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bootstrap: etcd's ids and first entries, joining by what other members say, restarts, what is
 * refused and with which words, and --force-new-cluster. The other members are a table of answers.
 */
#include "server/bootstrap.h"

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <cmocka.h>

#include "base/list.h"
#include "base/log.h"
#include "server/member_json.h"
#include "server/transport.h"
#include "storage/db_mem.h"
#include "storage/test_dir.h"

enum { ANSWERS_MAX = 12, ARGS_MAX = 16 };

/* What is answered to GET url + path. */
struct answer {
    const char *url, *path, *body;
    uint64_t cluster_id;
};

struct fixture {
    struct transport transport;
    const struct answer *answers;
    unsigned asked;
    uint64_t timeout_ms; /* of the last question */
    char *dir, *log_dir, *log;
    struct config config;
    struct data_dir *data_dir;
    struct store store;
    struct bootstrap b;
    bool configured;
};

static void fetch(struct transport *t, struct transport_fetch *f)
{
    struct fixture *x = container_of(t, struct fixture, transport);

    x->asked++;
    x->timeout_ms = f->timeout_ms;
    assert_string_equal(f->method, "GET");
    assert_int_equal(f->n_urls, 1);
    for (const struct answer *a = x->answers; a && a->url; a++) {
        if (strcmp(a->url, f->urls[0]) != 0 || strcmp(a->path, f->path) != 0)
            continue;
        f->status = 200;
        f->cluster_id = a->cluster_id;
        buf_append_str(&f->answer, a->body);
        break;
    }
    f->done(f);
}

static const struct transport_ops ops = {.fetch = fetch};

static int setup(void **state)
{
    struct fixture *x = mem_new(struct fixture);
    char *error = NULL;

    x->transport.ops = &ops;
    x->dir = test_dir_new();
    x->log_dir = test_dir_new();
    x->log = mem_printf("%s/log", x->log_dir);
    const char *outputs[] = {x->log};
    assert_int_equal(
        log_setup(&(struct log_options){.level = LOG_WARN, .outputs = outputs, .n_outputs = 1},
                  &error),
        0);
    *state = x;
    return 0;
}

static void fixture_close(struct fixture *x)
{
    x->b.wal = wal_close(x->b.wal);
    wal_recovery_deinit(&x->b.recovery);
    x->b = (struct bootstrap){0};
    store_close(&x->store);
    x->store = (struct store){0};
    x->data_dir = data_dir_close(x->data_dir);
    if (x->configured)
        config_deinit(&x->config);
    x->configured = false;
}

/* With nothing on disk. */
static void start_anew(struct fixture *x)
{
    fixture_close(x);
    db_mem_forget();
    test_dir_remove(x->dir);
    x->dir = test_dir_new();
}

static int teardown(void **state)
{
    struct fixture *x = *state;
    const char *outputs[] = {"stderr"};
    char *error = NULL;

    fixture_close(x);
    db_mem_forget();
    log_setup(&(struct log_options){.level = LOG_WARN, .outputs = outputs, .n_outputs = 1}, &error);
    free(x->log);
    test_dir_remove(x->log_dir);
    test_dir_remove(x->dir);
    free(x);
    return 0;
}

/* Parses "--a=b --c=d" on top of the data directory. */
static void configure(struct fixture *x, const char *flags)
{
    char *path = mem_printf("--data-dir=%s/data", x->dir), *words = mem_strdup(flags);
    char *args[ARGS_MAX] = {(char *)"cairn", path}, *no_environ[] = {NULL}, *at = words, *word;
    int n = 2, exit_code;

    while ((word = strsep(&at, " ")))
        args[n++] = word;
    assert_int_equal(config_parse(n, args, no_environ, &x->config, &exit_code), CONFIG_RUN);
    x->configured = true;
    free(path);
    free(words);
}

static int begin(struct fixture *x, const char *flags, const struct answer *answers)
{
    fixture_close(x);
    configure(x, flags);
    x->answers = answers;
    x->asked = 0;
    assert_int_equal(data_dir_open(&x->data_dir, x->config.data_dir, ""), 0);
    assert_int_equal(store_open(&x->store, &(struct store_options){.path = x->data_dir->db,
                                                                   .compaction_batch_max = 10}),
                     0);
    return bootstrap(&x->b, &(struct bootstrap_options){.config = &x->config,
                                                        .dir = x->data_dir,
                                                        .store = &x->store,
                                                        .transport = &x->transport,
                                                        .wal_segment_bytes = 64 << 10,
                                                        .wal_single_threaded = true});
}

/* Refused, with that as the last reason in the log. */
static void expect_logged(struct fixture *x, const char *text)
{
    char line[4096] = "", last[4096] = "";
    FILE *f = fopen(x->log, "r");

    while (fgets(line, sizeof(line), f))
        memcpy(last, line, sizeof(last));
    fclose(f);
    if (!strstr(last, text))
        fail_msg("%s", last);
}

static void expect_refused(struct fixture *x, const char *flags, const struct answer *answers,
                           const char *error)
{
    _cleanup_(buf_deinit) struct buf quoted = BUF_NULL;

    assert_int_equal(begin(x, flags, answers), 1);
    buf_append_str(&quoted, "\"error\":\"");
    buf_append_str(&quoted, error);
    expect_logged(x, buf_cstr(&quoted));
}

#define TWO                                                                                        \
    "--initial-cluster=a=http://127.0.0.1:24381,b=http://127.0.0.1:24391 "                         \
    "--initial-cluster-token=tok1 "
#define A TWO "--name=a --initial-advertise-peer-urls=http://127.0.0.1:24381"
#define B TWO "--name=b --initial-advertise-peer-urls=http://127.0.0.1:24391"

static const uint64_t id_a = 0x1fcfdbb73019296f, id_b = 0x0f2fddd092557a67,
                      id_cluster = 0x1767c24805d0a3cc;

/* ---- a new cluster ---- */

static void expect_entry(const struct raft_entry *e, uint64_t index, uint64_t id, const char *json)
{
    _cleanup_(buf_deinit) struct buf bytes = BUF_NULL;

    assert_true(e->term == 1 && e->index == index && e->type == RAFT_ENTRY_CONF_CHANGE);
    buf_append(&bytes, "\x10\x00\x18", 3);
    buf_append_varint(&bytes, id);
    buf_append_u8(&bytes, 0x22);
    buf_append_varint(&bytes, strlen(json));
    buf_append_str(&bytes, json);
    assert_true(bytes_equal(blob_bytes(e->data), buf_bytes(&bytes)));
}

/* The same on both members, and again after a crash in the middle. */
static void test_founding(void **state)
{
    struct fixture *x = *state;

    assert_int_equal(begin(x, A, NULL), 0);
    assert_int_equal(x->asked, 1); /* whether the other one knows it */
    assert_int_equal(x->timeout_ms, 1000);
    assert_true(x->b.member_id == id_a && x->b.cluster_id == id_cluster);
    assert_true(x->b.recovery.hard_state.term == 1 && x->b.recovery.hard_state.vote == 0 &&
                x->b.recovery.hard_state.commit == 2);
    assert_int_equal(x->b.recovery.n_entries, 2);
    expect_entry(&x->b.recovery.entries[0], 1, id_b,
                 "{\"id\":1094337122352331367,\"peerURLs\":[\"http://127.0.0.1:24391\"],"
                 "\"name\":\"b\"}");
    expect_entry(&x->b.recovery.entries[1], 2, id_a,
                 "{\"id\":2292292315187325295,\"peerURLs\":[\"http://127.0.0.1:24381\"],"
                 "\"name\":\"a\"}");
    /* A restart looks at the log alone. */
    assert_int_equal(begin(x, "--name=x --initial-cluster=x=http://127.0.0.1:1", NULL), 0);
    assert_int_equal(x->asked, 0);
    assert_true(x->b.member_id == id_a && x->b.cluster_id == id_cluster);
    assert_int_equal(x->b.recovery.n_entries, 2);
    assert_int_equal(x->b.recovery.hard_state.commit, 2);
}

static void test_founding_other(void **state)
{
    struct fixture *x = *state;

    assert_int_equal(begin(x, B, NULL), 0);
    assert_true(x->b.member_id == id_b && x->b.cluster_id == id_cluster);
    assert_int_equal(x->b.recovery.n_entries, 2);
}

/* The log was made, its entries were not written. */
static void test_founding_interrupted(void **state)
{
    struct fixture *x = *state;
    struct wal_recovery recovery = {0};
    struct wal *wal;

    configure(x, A);
    assert_int_equal(data_dir_open(&x->data_dir, x->config.data_dir, ""), 0);
    assert_int_equal(wal_open(&wal,
                              &(struct wal_options){.dir = x->data_dir->wal,
                                                    .create = true,
                                                    .segment_bytes = 64 << 10,
                                                    .single_threaded = true,
                                                    .cluster_id = id_cluster,
                                                    .member_id = id_a},
                              &recovery),
                     0);
    wal_close(wal);
    wal_recovery_deinit(&recovery);
    char *text =
        mem_printf("the raft log in %s/data/member/wal was begun with other flags", x->dir);
    expect_refused(x, B, NULL, text);
    free(text);
    assert_int_equal(begin(x, A, NULL), 0);
    assert_int_equal(x->b.recovery.n_entries, 2);
}

static void test_already_started(void **state)
{
    struct fixture *x = *state;
    static const struct answer started[] = {
        {"http://127.0.0.1:24391", "/members",
         "[{\"id\":2292292315187325295,\"peerURLs\":[\"http://127.0.0.1:24381\"],\"name\":\"a\","
         "\"clientURLs\":[\"http://c\"]}]",
         1},
        {0}};
    static const struct answer not_started[] = {
        {"http://127.0.0.1:24391", "/members",
         "[{\"id\":2292292315187325295,\"peerURLs\":[\"http://127.0.0.1:24381\"],\"name\":\"a\"}]",
         1},
        {0}};

    expect_refused(x, A, started, "member 1fcfdbb73019296f has already been bootstrapped");
    assert_int_equal(begin(x, A, not_started), 0);
}

static void test_new_refused(void **state)
{
    struct fixture *x = *state;

    expect_refused(x, TWO "--name=c", NULL,
                   "couldn't find local name \\\"c\\\" in the initial cluster configuration");
    expect_refused(x, TWO "--name=a --initial-advertise-peer-urls=http://127.0.0.1:24391", NULL,
                   "--initial-cluster has a=http://127.0.0.1:24381 but missing from "
                   "--initial-advertise-peer-urls=http://127.0.0.1:24391");
    expect_refused(x,
                   "--name=a --initial-advertise-peer-urls=http://127.0.0.1:1 "
                   "--initial-cluster=a=http://127.0.0.1:1,b=http://127.0.0.1:1",
                   NULL,
                   "initial cluster a=http://127.0.0.1:1,b=http://127.0.0.1:1 has duplicate url");
    assert_int_equal(begin(x, A, NULL), 0); /* nothing was left behind */
}

/* ---- joining ---- */

#define EXISTING                                                                                   \
    "--initial-cluster-state=existing --initial-cluster-token=other --name=c "                     \
    "--initial-cluster=a=http://127.0.0.1:24381,c=http://127.0.0.1:24401,"                         \
    "b=http://127.0.0.1:24391"
#define MEMBERS                                                                                    \
    "[{\"id\":7,\"peerURLs\":[\"http://127.0.0.1:24391\"],\"name\":\"x\"},"                        \
    "{\"id\":18446744073709551610,\"peerURLs\":[\"http://127.0.0.1:24401\"]},"                     \
    "{\"id\":5,\"peerURLs\":[\"http://127.0.0.1:24381\"]}]\n"
#define OF_A "http://127.0.0.1:24381"
#define OF_B "http://127.0.0.1:24391"
#define VERSION(v) "{\"etcdserver\":\"3.7.1\",\"etcdcluster\":\"" v "\"}"

static const uint64_t id_c = 18446744073709551610ull;

static void count_member(void *arg, const struct member *m)
{
    unsigned *n = arg;

    assert_true(m->id == 5 || m->id == 7 || m->id == id_c);
    ++*n;
}

static void expect_joined(struct fixture *x)
{
    unsigned known = 0;
    struct raft *raft;

    assert_true(x->b.member_id == id_c && x->b.cluster_id == 99);
    assert_int_equal(x->b.recovery.n_entries, 0);
    assert_int_equal(x->b.recovery.hard_state.term, 0);
    members_visit(x->store.members, count_member, &known);
    assert_int_equal(known, 3);
    assert_int_equal(bootstrap_raft(&raft, &x->b, &x->config, x->store.members, 1), 0);
    raft_free(raft);
}

static void test_join(void **state)
{
    struct fixture *x = *state;
    static const struct answer answers[] = {{OF_A, "/members", "nonsense", 99},
                                            {OF_B, "/members", MEMBERS, 99},
                                            {OF_A, "/version", VERSION("not_decided"), 0},
                                            {OF_B, "/version", VERSION("3.7.0"), 0},
                                            {OF_B, "/downgrade/enabled", "false", 0},
                                            {0}};

    assert_int_equal(begin(x, EXISTING, answers), 0);
    assert_int_equal(x->asked,
                     5); /* both for the members, for their versions, one for the downgrade */
    assert_int_equal(x->timeout_ms, 7000);
    expect_joined(x);
    /* It restarts without having heard from anybody: it can't ask, and need not. */
    assert_int_equal(begin(x, EXISTING, NULL), 0);
    assert_int_equal(x->asked, 0);
    assert_true(x->b.member_id == id_c && x->b.cluster_id == 99);
    assert_int_equal(x->b.recovery.n_entries, 0);
    char *text =
        mem_printf("the raft log in %s/data/member/wal was begun with other flags", x->dir);
    expect_refused(x, A, NULL, text);
    free(text);
}

/* Who knows the member that had these URLs before. */
#define MEMBERS_BEFORE                                                                             \
    "[{\"id\":7,\"peerURLs\":[\"http://127.0.0.1:24391\"],\"name\":\"x\"},"                        \
    "{\"id\":3,\"peerURLs\":[\"http://127.0.0.1:24401\"],\"clientURLs\":[\"http://c\"]},"          \
    "{\"id\":5,\"peerURLs\":[\"http://127.0.0.1:24381\"]}]\n"

static void test_join_again(void **state)
{
    struct fixture *x = *state;
    struct answer answers[] = {{OF_A, "/members", MEMBERS_BEFORE, 99},
                               {OF_A, "/version", VERSION("3.7.0"), 0},
                               {OF_B, "/members", MEMBERS, 99},
                               {0}};

    assert_int_equal(begin(x, EXISTING, answers), 0);
    expect_joined(x);
}

/* Nobody knows better: as etcd does it. */
static void test_join_without_data(void **state)
{
    struct fixture *x = *state;
    struct answer answers[] = {
        {OF_B, "/members", MEMBERS_BEFORE, 99}, {OF_B, "/version", VERSION("3.7.0"), 0}, {0}};

    assert_int_equal(begin(x, EXISTING, answers), 0);
    assert_true(x->b.member_id == 3);
}

static void test_join_by_names(void **state)
{
    struct fixture *x = *state;
    static const struct answer answers[] = {
        {"http://localhost:1", "/members",
         "[{\"id\":5,\"peerURLs\":[\"http://localhost:1\"]},"
         "{\"id\":6,\"peerURLs\":[\"http://[::1]:4\",\"http://127.0.0.1:3\"]}]",
         99},
        {"http://localhost:1", "/version", VERSION("3.6.0"), 0},
        {0}};

    assert_int_equal(begin(x,
                           "--initial-cluster-state=existing --name=b "
                           "--initial-cluster=a=http://localhost:1,b=http://127.0.0.1:3,"
                           "b=http://[0:0::1]:4",
                           answers),
                     0);
    assert_true(x->b.member_id == 6);
}

static void test_join_refused(void **state)
{
    struct fixture *x = *state;
    static const char cannot[] = "cannot fetch cluster info from peer urls: ";
    static const struct answer nobody[] = {{0}}, no_id[] = {{OF_A, "/members", MEMBERS, 0}, {0}},
                               empty[] = {{OF_A, "/members", "[]", 99},
                                          {OF_B, "/members", MEMBERS, 99},
                                          {0}},
                               fewer[] = {{OF_A, "/members",
                                           "[{\"id\":5,\"peerURLs\":[\"http://127.0.0.1:24381\"]}]",
                                           99},
                                          {0}},
                               other[] = {{OF_A, "/members",
                                           "[{\"id\":5,\"peerURLs\":[\"http://127.0.0.1:24381\"]},"
                                           "{\"id\":8,\"peerURLs\":[\"http://127.0.0.1:9\"],"
                                           "\"isLearner\":true,\"name\":\"z\","
                                           "\"clientURLs\":[\"http://c\",\"http://d\"]},"
                                           "{\"id\":7,\"peerURLs\":[\"http://127.0.0.1:24391\"]}]",
                                           0xab},
                                          {0}};
    char text[128];

    snprintf(text, sizeof(text), "%scould not retrieve cluster information from the given URLs",
             cannot);
    expect_refused(x, EXISTING, nobody, text);
    assert_int_equal(x->asked, 2);
    assert_int_equal(x->timeout_ms, 10000);
    expect_refused(x, EXISTING, no_id, text);
    snprintf(text, sizeof(text), "%sfailed to get raft cluster member(s) from the given URLs",
             cannot);
    expect_refused(x, EXISTING, empty, text);
    assert_int_equal(x->asked, 1); /* the first answer counts */
    expect_refused(x, EXISTING, fewer,
                   "error validating peerURLs {ClusterID:63 Members:[&{ID:5 "
                   "RaftAttributes:{PeerURLs:[http://127.0.0.1:24381] IsLearner:false} "
                   "Attributes:{Name: ClientURLs:[]}}] RemovedMemberIDs:[]}: member count is "
                   "unequal");
    expect_refused(
        x, EXISTING, other,
        "error validating peerURLs {ClusterID:ab Members:[&{ID:5 "
        "RaftAttributes:{PeerURLs:[http://127.0.0.1:24381] IsLearner:false} Attributes:{Name: "
        "ClientURLs:[]}} &{ID:7 RaftAttributes:{PeerURLs:[http://127.0.0.1:24391] "
        "IsLearner:false} Attributes:{Name: ClientURLs:[]}} &{ID:8 "
        "RaftAttributes:{PeerURLs:[http://127.0.0.1:9] IsLearner:true} Attributes:{Name:z "
        "ClientURLs:[http://c http://d]}}] RemovedMemberIDs:[]}: PeerURLs: no match found for "
        "existing member (8, [http://127.0.0.1:9]), last resolver error (resolved urls: "
        "\\\"http://127.0.0.1:9\\\" != \\\"http://127.0.0.1:24401\\\")");
    expect_refused(x,
                   "--initial-cluster-state=existing --name=z "
                   "--initial-cluster=a=http://127.0.0.1:24381",
                   NULL, "couldn't find local name \\\"z\\\" in the initial cluster configuration");
}

static void test_join_versions(void **state)
{
    static const struct {
        const char *a, *b, *downgrade; /* NULL: silent */
        bool joins;
    } cases[] = {
        {VERSION("3.7.0"), VERSION("3.7.0"), "false", true},
        {VERSION("3.7.0"), NULL, NULL, true}, /* somebody may be offline */
        {VERSION("3.0.0"), VERSION("3.5.0"), "false", true},
        {NULL, NULL, NULL, false}, /* but not everybody */
        {VERSION("not_decided"), VERSION("not_decided"), "false", false},
        {VERSION("not_decided"), VERSION("3.7.0"), "false", true},
        {VERSION("3.8.0"), VERSION("3.7.0"), "false", false},
        {VERSION("3.7.0"), VERSION("2.3.0"), "false", false},
        {VERSION("3.8.0"), VERSION("3.8.0"), "true", true}, /* it is on its way down to ours */
        {VERSION("3.8.0"), VERSION("3.7.0"), "true", false},
        {VERSION("3.7.0"), VERSION("3.7.0"), "true", false},
        {VERSION("3.7.0"), VERSION("3.7.0"), "T", false},
        {VERSION("3.7.0"), VERSION("3.7.0"), "true\n", true}, /* no such word: as if silent */
        {VERSION("3.7.0"), VERSION("3.7.0"), "404 page not found\n", true},
    };
    struct fixture *x = *state;

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct answer answers[ANSWERS_MAX] = {{OF_A, "/members", MEMBERS, 99}};
        int n = 1;
        if (cases[i].a)
            answers[n++] = (struct answer){OF_A, "/version", cases[i].a, 0};
        if (cases[i].b)
            answers[n++] = (struct answer){OF_B, "/version", cases[i].b, 0};
        if (cases[i].downgrade)
            answers[n++] = (struct answer){OF_A, "/downgrade/enabled", cases[i].downgrade, 0};
        print_message("case %zu\n", i);
        if (!cases[i].joins) {
            expect_refused(x, EXISTING, answers, "incompatible with current running cluster");
            continue;
        }
        assert_int_equal(begin(x, EXISTING, answers), 0);
        expect_joined(x);
        start_anew(x);
    }
}

static void test_join_learners(void **state)
{
    struct fixture *x = *state;
    static const struct answer answers[] = {
        {OF_A, "/members",
         "[{\"id\":5,\"peerURLs\":[\"http://127.0.0.1:24381\"]},"
         "{\"id\":7,\"peerURLs\":[\"http://127.0.0.1:24391\"],\"isLearner\":true},"
         "{\"id\":18446744073709551610,\"peerURLs\":[\"http://127.0.0.1:24401\"],"
         "\"isLearner\":true}]",
         99},
        {OF_A, "/version", VERSION("3.7.0"), 0},
        {0}};

    expect_refused(x, EXISTING, answers, "membership: too many learner members in cluster");
    assert_int_equal(begin(x, EXISTING " --max-learners=2", answers), 0);
}

/* ---- --force-new-cluster ---- */

/* Entries behind the founding ones, one letter each: x normal, a7 add, l7 learner, r7 remove, u7
 * update, p7 promote; committed up to index. */
static void write_log(struct fixture *x, const char *script, uint64_t commit)
{
    struct raft_hard_state hs = {.term = 3, .vote = 1, .commit = commit};
    static const char letters[] = "arul";
    struct raft_entry entries[16] = {{0}};
    size_t n = 0;

    for (const char *p = script; *p; p++) {
        struct raft_entry *e = &entries[n];
        *e = (struct raft_entry){.term = 3, .index = 3 + n};
        n++;
        if (*p == 'x') {
            e->data = blob_copy(BYTES_LIT("x"));
            continue;
        }
        bool promotes = *p == 'p';
        const char *letter = strchr(letters, *p);
        Raftpb__ConfChangeType type = promotes ? RAFTPB__CONF_CHANGE_TYPE__ConfChangeAddNode
                                               : (Raftpb__ConfChangeType)(letter - letters);
        uint64_t id = (uint64_t)(*++p - '0');
        e->type = RAFT_ENTRY_CONF_CHANGE;
        e->data = member_change_encode(1, type, id, BYTES_LIT("{}"));
    }
    assert_int_equal(wal_append(x->b.wal, &hs, entries, n), 0);
    assert_int_equal(wal_sync(x->b.wal), 0);
    for (size_t i = 0; i < n; i++)
        blob_unref(entries[i].data);
}

/* The entries that were appended, in the same letters; A, B: the founders. */
static char *appended(struct fixture *x, uint64_t behind)
{
    struct buf out = BUF_NULL;

    for (size_t i = 0; i < x->b.recovery.n_entries; i++) {
        const struct raft_entry *e = &x->b.recovery.entries[i];
        if (e->index <= behind)
            continue;
        assert_int_equal(e->term, 3);
        Raftpb__ConfChange *c = raftpb__conf_change__unpack(NULL, e->data->len, e->data->data);
        bool promotes =
            c->context.len > 0 && memmem(c->context.data, c->context.len, "isPromote", 9);
        buf_append_u8(&out, (uint8_t)(promotes ? 'p' : "aru"[c->type]));
        if (c->node_id == id_a || c->node_id == id_b)
            buf_append_u8(&out, c->node_id == id_a ? 'A' : 'B');
        else
            buf_printf(&out, "%" PRIu64, c->node_id);
        raftpb__conf_change__free_unpacked(c, NULL);
    }
    char *text = mem_strdup(buf_cstr(&out));
    buf_deinit(&out);
    return text;
}

static void test_force(void **state)
{
    static const struct {
        const char *script;
        uint64_t commit;
        const char *appended;
    } cases[] = {
        {"", 2, "rB"},
        {"xx", 4, "rB"},
        {"xx", 2, "rB"}, /* what is not committed is dropped */
        {"a5a7a6", 5, "r5r6r7rB"},
        {"a5a7a6", 4, "r5r7rB"},
        {"l5", 3, "r5rB"},
        {"a5r5", 4, "rB"},
        {"u5x", 4, "rB"},
        {"l5p5", 4, "r5rB"},
    };
    struct fixture *x = *state;

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        assert_int_equal(begin(x, A, NULL), 0);
        write_log(x, cases[i].script, cases[i].commit);
        assert_int_equal(begin(x, A " --force-new-cluster", NULL), 0);
        assert_true(x->b.cluster_id == id_cluster && x->b.member_id == id_a);
        char *text = appended(x, cases[i].commit);
        if (strcmp(text, cases[i].appended) != 0)
            fail_msg("%s at %d: %s", cases[i].script, (int)cases[i].commit, text);
        uint64_t last = x->b.recovery.entries[x->b.recovery.n_entries - 1].index;
        assert_true(x->b.recovery.hard_state.commit == last);
        assert_true(x->b.recovery.hard_state.term == 3 && x->b.recovery.hard_state.vote == 1);
        free(text);
        /* It is all in the log: a plain restart finds the same. */
        assert_int_equal(begin(x, A, NULL), 0);
        text = appended(x, cases[i].commit);
        assert_string_equal(text, cases[i].appended);
        assert_true(x->b.recovery.hard_state.commit == last);
        free(text);
        start_anew(x);
    }
}

/* Of one that was never added, and of one that is a learner. */
static void test_force_self(void **state)
{
    static const struct {
        bool in_log, is_learner;
        const char *appended;
    } cases[] = {{false, false, "aA"}, {true, true, "pAr7"}, {true, false, "r7"}};
    struct fixture *x = *state;

    for (size_t i = 0; i < 3; i++) {
        struct raft_hard_state hs = {.term = 3, .commit = cases[i].in_log ? 2 : 1};
        Raftpb__ConfChangeType type = cases[i].is_learner
                                          ? RAFTPB__CONF_CHANGE_TYPE__ConfChangeAddLearnerNode
                                          : RAFTPB__CONF_CHANGE_TYPE__ConfChangeAddNode;
        struct raft_entry entries[2] = {
            {.term = 3, .index = 1},
            {.term = 3, .index = 2, .type = RAFT_ENTRY_CONF_CHANGE},
        };
        struct wal_recovery recovery = {0};
        struct wal *wal;
        configure(x, A);
        assert_int_equal(data_dir_open(&x->data_dir, x->config.data_dir, ""), 0);
        assert_int_equal(wal_open(&wal,
                                  &(struct wal_options){.dir = x->data_dir->wal,
                                                        .create = true,
                                                        .segment_bytes = 64 << 10,
                                                        .single_threaded = true,
                                                        .cluster_id = id_cluster,
                                                        .member_id = id_a},
                                  &recovery),
                         0);
        entries[0].type = cases[i].in_log ? RAFT_ENTRY_CONF_CHANGE : RAFT_ENTRY_NORMAL;
        entries[0].data = member_change_encode(0, RAFTPB__CONF_CHANGE_TYPE__ConfChangeAddNode, 7,
                                               BYTES_LIT("{}"));
        entries[1].data = member_change_encode(0, type, id_a, BYTES_LIT("{}"));
        assert_int_equal(wal_append(wal, &hs, entries, cases[i].in_log ? 2 : 1), 0);
        wal_close(wal);
        wal_recovery_deinit(&recovery);
        blob_unref(entries[0].data);
        blob_unref(entries[1].data);
        assert_int_equal(begin(x, A " --force-new-cluster", NULL), 0);
        char *text = appended(x, hs.commit);
        assert_string_equal(text, cases[i].appended);
        free(text);
        start_anew(x);
    }
}

/* Changes that this version does not know, joint ones above all: there would be members left that
 * nobody removes. */
static void test_force_refused(void **state)
{
    static const struct {
        enum raft_entry_type type;
        struct bytes data;
    } cases[] = {
        /* leaves a joint one, adds 5, is none */
        {RAFT_ENTRY_CONF_CHANGE_V2, BYTES_LIT("")},
        {RAFT_ENTRY_CONF_CHANGE_V2, BYTES_LIT("\x12\x04\x08\x00\x10\x05")},
        {RAFT_ENTRY_CONF_CHANGE, BYTES_LIT("\xff")},
    };
    struct fixture *x = *state;

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct raft_hard_state hs = {.term = 3, .vote = 1, .commit = 3};
        struct raft_entry entry = {
            .term = 3, .index = 3, .type = cases[i].type, .data = blob_copy(cases[i].data)};
        assert_int_equal(begin(x, A, NULL), 0);
        assert_int_equal(wal_append(x->b.wal, &hs, &entry, 1), 0);
        assert_int_equal(wal_sync(x->b.wal), 0);
        blob_unref(entry.data);
        expect_refused(x, A " --force-new-cluster", NULL,
                       "the configuration entry at index 3 is not readable");
        assert_int_equal(begin(x, A, NULL), 0); /* nothing was changed */
        assert_int_equal(x->b.recovery.n_entries, 3);
        assert_true(x->b.recovery.hard_state.commit == 3);
        start_anew(x);
    }
}

/* ---- a snapshot that was accepted and is gone ---- */

static void test_snapshot_gone(void **state)
{
    struct fixture *x = *state;
    struct raft_hard_state hs = {.term = 7, .commit = 500};

    assert_int_equal(begin(x, A, NULL), 0);
    assert_int_equal(wal_append_snapshot(x->b.wal, 500, 7), 0);
    assert_int_equal(wal_append(x->b.wal, &hs, NULL, 0), 0);
    assert_int_equal(wal_sync(x->b.wal), 0);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(begin(x, A, NULL), 1);
        expect_logged(x, "the raft log continues a snapshot that is not here");
    }
}

/* ---- a lost tail ---- */

/* The mark stays over restarts, also where the term is raised behind the hard state; a member that
 * goes on alone has none. */
static void test_lost_tail(void **state)
{
    struct fixture *x = *state;
    struct raft_hard_state hs = {
        .term = 2, .vote = 1, .commit = 2, .lost_tail_index = 9, .lost_tail_term = 2};
    struct raft_entry e = {.term = 3, .index = 3};

    assert_int_equal(begin(x, A, NULL), 0);
    assert_int_equal(x->b.recovery.hard_state.lost_tail_index, 0);
    assert_int_equal(wal_append(x->b.wal, &hs, NULL, 0), 0);
    assert_int_equal(begin(x, A, NULL), 0);
    assert_int_equal(x->b.recovery.hard_state.lost_tail_index, 9);
    expect_logged(x, "has lost entries that it acknowledged");
    assert_int_equal(wal_append(x->b.wal, NULL, &e, 1), 0);
    assert_int_equal(begin(x, A, NULL), 0);
    assert_int_equal(x->b.recovery.hard_state.term, 3);
    assert_int_equal(x->b.recovery.hard_state.lost_tail_index, 9);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(begin(x, i == 0 ? A " --force-new-cluster" : A, NULL), 0);
        assert_int_equal(x->b.recovery.hard_state.lost_tail_index, 0);
    }
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_founding),        T(test_founding_other),    T(test_founding_interrupted),
        T(test_already_started), T(test_new_refused),       T(test_join),
        T(test_join_again),      T(test_join_without_data), T(test_join_by_names),
        T(test_join_refused),    T(test_join_versions),     T(test_join_learners),
        T(test_force),           T(test_force_self),        T(test_lost_tail),
        T(test_force_refused),   T(test_snapshot_gone),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

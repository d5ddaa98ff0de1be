/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What other members answer, of any bytes: to one that joins (GET /members, /version,
 * /downgrade/enabled), to a leader that looks for the lowest version, to a follower that has passed
 * a promotion on. The input: answers { flags 1, length varint, body } in the order of the
 * questions; whoever is asked when there is none left is silent.
 *
 * Properties:
 *   who joins is refused with a reason in the log, or has an id and a cluster's that is not 0
 *   a version that was read is written and read as the same; what is decided from it is one, too
 *   a list of members becomes an answer that protobuf reads back
 *
 * Names are not resolved and the raft log is not begun: link with --wrap of url_resolver_init and
 * bootstrap_open_log, and as fuzz_store.h says.
 */
#include "base/check.h"
#include "base/list.h"
#include "rpc.pb-c.h"
#include "server/bootstrap_private.h"
#include "server/cluster_version.h"
#include "server/member_answer.h"
#include "server/member_json.h"
#include "server/transport.h"
#include "server/url_equal.h"
#include "storage/test_dir.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/fuzz_store.h"

enum { FLAG_SILENT = 1, FLAG_CLUSTER = 2, QUESTIONS_MAX = 4096, N_MEMBERS = 3 };

struct others {
    struct transport transport;
    struct bytes answers;
    unsigned asked;
};

static struct config config;

/* ---- the other members ---- */

static bool answer_take(struct bytes *answers, uint8_t *ret_flags, struct bytes *ret_body)
{
    uint64_t len;

    if (answers->len == 0)
        return false;
    *ret_flags = answers->data[0];
    *answers = bytes_of(answers->data + 1, answers->len - 1);
    if (!varint_get(answers, &len) || len > answers->len)
        len = answers->len;
    *ret_body = bytes_of(answers->data, (size_t)len);
    *answers = bytes_of(answers->data + len, answers->len - (size_t)len);
    return true;
}

static void fetch(struct transport *t, struct transport_fetch *f)
{
    struct others *o = container_of(t, struct others, transport);
    struct bytes body;
    uint8_t flags;

    check(++o->asked < QUESTIONS_MAX && f->n_urls == 1);
    if (answer_take(&o->answers, &flags, &body) && !(flags & FLAG_SILENT)) {
        f->status = 200;
        f->cluster_id = flags & FLAG_CLUSTER ? 7 : 0;
        buf_append_bytes(&f->answer, body);
    }
    f->done(f);
}

static const struct transport_ops ops = {.fetch = fetch};

/* ---- what is not there ---- */

void __wrap_url_resolver_init(struct url_resolver *r);
int __wrap_bootstrap_open_log(struct bootstrap *b, const struct bootstrap_options *o, bool create,
                              int *ret_outcome);

/* Some names have an address, and for the others nobody waits. */
static int resolve(struct url_resolver *r, const char *host, char ret[URL_ADDRESS_MAX],
                   char **ret_error)
{
    if (host[0] >= 'n') {
        *ret_error = mem_strdup("no such host");
        return 1;
    }
    snprintf(ret, URL_ADDRESS_MAX, "127.0.0.%u", (uint8_t)host[0]);
    return 0;
}

static bool pause_never(struct url_resolver *r)
{
    return false;
}

void __wrap_url_resolver_init(struct url_resolver *r)
{
    *r = (struct url_resolver){.resolve = resolve, .pause = pause_never};
}

int __wrap_bootstrap_open_log(struct bootstrap *b, const struct bootstrap_options *o, bool create,
                              int *ret_outcome)
{
    check(b->cluster_id != 0 && b->member_id != 0);
    *ret_outcome = 0;
    return 0;
}

/* ---- joining ---- */

static void count_member(void *arg, const struct member *m)
{
    ++*(size_t *)arg;
}

static void join(struct bytes answers)
{
    struct others others = {.transport.ops = &ops, .answers = answers};
    struct store store = {.db = test_db_open("memory")};
    struct data_dir dir = {0};
    struct bootstrap b = {0};
    uint64_t errors = fuzz_log_errors();
    size_t n = 0;

    check(members_open(&store.members, store.db) == 0);
    int r = bootstrap_join(
        &b, &(struct bootstrap_options){
                .config = &config, .dir = &dir, .store = &store, .transport = &others.transport});
    check(r == 0 || (r == 1 && fuzz_log_errors() > errors));
    members_visit(store.members, count_member, &n);
    check(n == (r == 0 ? N_MEMBERS : 0));
    check(r != 0 || members_find(store.members, b.member_id, NULL));
    members_close(store.members);
    db_close(store.db);
}

/* ---- one answer ---- */

static void check_version(struct version v)
{
    char text[VERSION_TEXT_MAX];
    struct version again;

    version_text(v, text);
    check(version_parse(text, &again) && version_compare(v, again) == 0);
}

static void decide(struct version lowest, struct version set)
{
    struct version_facts facts = {
        .is_set = true, .set = version_minor(set), .is_known = true, .lowest = lowest};
    struct version decided;
    char text[VERSION_TEXT_MAX];

    if (cluster_version_decide(&facts, &decided)) {
        check_version(decided);
        check(version_compare(decided, facts.set) > 0 && version_compare(decided, lowest) <= 0);
    }
    facts.downgrade.enabled = true;
    version_text(version_minor(lowest), text);
    memcpy(facts.downgrade.target, text, sizeof(text));
    if (cluster_version_decide(&facts, &decided))
        check_version(decided);
    facts.is_set = false;
    check(cluster_version_decide(&facts, &decided));
    check_version(decided);
}

static void one_version(struct bytes answer)
{
    struct version of_server, of_cluster = {.major = 3};
    bool is_read = cluster_version_parse(answer, "etcdcluster", &of_cluster);

    if (is_read)
        check_version(of_cluster);
    if (!cluster_version_parse(answer, "etcdserver", &of_server))
        return;
    check_version(of_server);
    decide(of_server, of_cluster);
}

static void one_list(struct bytes answer)
{
    _cleanup_(buf_deinit) struct buf out = BUF_NULL;
    _cleanup_(member_list_deinit) struct member_list list = {0};

    if (member_json_list_parse(answer, &list) != 0)
        return;
    member_answer_copy(&out, 2, &list);
    Etcdserverpb__MemberListResponse *r =
        etcdserverpb__member_list_response__unpack(NULL, out.len, out.data);
    check(r && r->n_members == list.len);
    for (size_t i = 0; i < list.len; i++)
        check(r->members[i]->id == list.items[i].id);
    etcdserverpb__member_list_response__free_unpacked(r, NULL);
}

static void configure(void)
{
    char *args[] = {(char *)"cairn",
                    (char *)"--name=a",
                    (char *)"--initial-cluster-state=existing",
                    (char *)"--initial-cluster=a=http://127.0.0.1:1,b=http://b:2,c=https://c:3,"
                            "c=http://c:4",
                    (char *)"--initial-advertise-peer-urls=http://127.0.0.1:1",
                    NULL};
    char *no_environ[] = {NULL};
    int exit_code;

    check(config_parse(5, args, no_environ, &config, &exit_code) == CONFIG_RUN);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct bytes rest = bytes_of(data, size), body;
    uint8_t flags;

    if (!config.name)
        configure();
    join(rest);
    while (answer_take(&rest, &flags, &body)) {
        one_version(body);
        one_list(body);
    }
    return 0;
}

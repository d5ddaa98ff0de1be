/* SPDX-License-Identifier: Apache-2.0 */
/* Members in answers (see member_answer.h). No state. Thread: any. */
#include "server/member_answer.h"

#include <stdlib.h>

#include "rpc.pb-c.h"
#include "server/member_json.h"
#include "server/peer_door.h"

/* A walk over the table. */
struct walk {
    struct buf *out;
    uint32_t field;
    uint64_t only; /* 0: all */
};

static void append_texts(struct buf *out, uint32_t field, char *const *items, size_t n)
{
    for (size_t i = 0; i < n; i++)
        encode_present_bytes(out, field, bytes_str(items[i]));
}

static void append_member(void *arg, const struct member *m)
{
    const struct walk *w = arg;
    size_t mark;

    if (w->only != 0 && w->only != m->id)
        return;
    mark = encode_begin(w->out, w->field);
    encode_u64(w->out, 1, m->id);
    encode_bytes(w->out, 2, bytes_str(m->name ? m->name : ""));
    append_texts(w->out, 3, m->peer_urls, m->n_peer_urls);
    append_texts(w->out, 4, m->client_urls, m->n_client_urls);
    encode_bool(w->out, 5, m->is_learner);
    encode_end(w->out, mark);
}

void member_answer_list(struct buf *out, uint32_t field, struct members *members)
{
    members_visit(members, append_member, &(struct walk){.out = out, .field = field});
}

void member_answer_copy(struct buf *out, uint32_t field, const struct member_list *list)
{
    for (size_t i = 0; i < list->len; i++)
        append_member(&(struct walk){.out = out, .field = field}, &list->items[i]);
}

/* MemberAddResponse {1 header, 2 member, 3 members}; the others {1 header, 2 members}. */
void member_answer_change(struct request *request, const struct response_header *header,
                          struct members *members, uint64_t member_id)
{
    struct response_header without_revision = *header;
    struct walk added = {.out = &request->response, .field = 2, .only = member_id};
    bool adds = request->kind == REQUEST_MEMBER_ADD;

    without_revision.revision = 0;
    encode_header(&request->response, &without_revision);
    if (adds)
        members_visit(members, append_member, &added);
    member_answer_list(&request->response, adds ? 3 : 2, members);
}

/* ---- /members/promote of the peer port ---- */

static void append_list(struct buf *out, const Etcdserverpb__MemberPromoteResponse *r)
{
    struct member_list list = {0};

    for (size_t i = 0; i < r->n_members; i++) {
        const Etcdserverpb__Member *m = r->members[i];
        member_list_add(&list, (struct member){.id = m->id,
                                               .peer_urls = m->peerurls,
                                               .n_peer_urls = m->n_peerurls,
                                               .is_learner = m->islearner,
                                               .name = m->name,
                                               .client_urls = m->clienturls,
                                               .n_client_urls = m->n_clienturls});
    }
    member_json_list(out, &list);
    free(list.items);
}

static int refusal_status(enum outcome outcome, struct buf *body)
{
    switch (outcome) {
    case OUTCOME_MEMBER_NOT_FOUND: buf_append_str(body, "membership: ID not found\n"); return 404;
    case OUTCOME_MEMBER_NOT_LEARNER:
        buf_append_str(body, PROMOTE_NOT_LEARNER_TEXT "\n");
        return 412;
    case OUTCOME_LEARNER_NOT_READY: buf_append_str(body, PROMOTE_NOT_READY_TEXT "\n"); return 412;
    default: buf_append_str(body, "{\"message\":\"Internal Server Error\"}"); return 500;
    }
}

int server_peer_promote_answer(const struct request *request, enum outcome outcome,
                               struct buf *body, bool *ret_json)
{
    struct bytes response = buf_bytes(&request->response);
    Etcdserverpb__MemberPromoteResponse *r = NULL;
    int status;

    if (outcome == OUTCOME_OK)
        r = etcdserverpb__member_promote_response__unpack(NULL, response.len, response.data);
    if (!r) {
        status = refusal_status(outcome, body);
        *ret_json = status == 500;
        return status;
    }
    append_list(body, r);
    etcdserverpb__member_promote_response__free_unpacked(r, NULL);
    *ret_json = true;
    return 200;
}

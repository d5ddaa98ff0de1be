/* SPDX-License-Identifier: Apache-2.0 */
/* Members in answers (see member_answer.h). Thread: any. */
#include "server/member_answer.h"

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

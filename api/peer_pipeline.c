/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The pipeline: each message is a POST /raft of its own, four at a time, so that their order is not
 * kept. It carries what is to be said while there is no stream, above all to a new member.
 *
 *   raft's thread ──inbox, bell──> queue ──> an idle poster ──204──> sent
 *                                                 └──anything else──> unreachable
 *
 * I1. What is in the inbox and in the queue is at most PEER_POSTS_MAX: the inbox counts both, the
 * loop gives back when it takes from the queue.
 * I2. A post whose connection is gone before an answer came is made again, if an earlier post had
 * used that connection: raft takes any message twice but a proposal, which would be carried out
 * twice. Proposals get a connection of their own, which nobody has let go of meanwhile.
 *
 * Thread: the loop; peer_pipeline_send() raft's.
 */
#include "api/peer_private.h"

#include <stdio.h>

#include "base/check.h"
#include "base/log.h"
#include "base/mem.h"

static struct peer_post *post_free(struct peer_post *post)
{
    if (post)
        buf_deinit(&post->body);
    free(post);
    return NULL;
}

/* ---- posting ---- */

static void poster_done(struct peer_poster *b)
{
    b->post = post_free(b->post);
    free(b->url);
    b->url = NULL;
}

static void failed(struct peer_poster *b, const char *error)
{
    struct peer_link *link = b->pipeline->link;

    peer_link_url_failed(link, b->url);
    peer_link_deactivate(link, (struct peer_failure){"pipeline", "write", error});
    metric_add(&link->metrics->sent_failures, 1);
    server_peer_unreachable(link->peer->server, link->id);
}

static void answered(struct peer_poster *b)
{
    struct peer_link *link = b->pipeline->link;
    int r = peer_post_reply_check(&b->call.reply.head);
    char error[PEER_ERROR_BYTES_MAX];

    if (r == 0) {
        peer_link_activate(link);
        metric_add(&link->metrics->sent_bytes, b->post->body.len);
        return;
    }
    if (r == PEER_HEADER_E_REMOVED)
        peer_removed(link->peer);
    snprintf(error, sizeof(error), "unexpected http status %d while posting to \"%s/raft\"",
             b->call.reply.head.status, b->url);
    failed(b, error);
}

static void queue_pump(struct peer_pipeline *p);

static void post_done(struct peer_call *call, const char *error)
{
    struct peer_poster *b = container_of(call, struct peer_poster, call);

    if (error)
        failed(b, error);
    else
        answered(b);
    poster_done(b);
    queue_pump(b->pipeline);
}

static void poster_start(struct peer_poster *b, struct peer_post *post)
{
    struct peer_link *link = b->pipeline->link;
    const struct url *url = peer_link_url(link);
    struct peer_request request = {.method = "POST",
                                   .path = BYTES_LIT("/raft"),
                                   .identity = &link->peer->identity,
                                   .content_type = "application/protobuf",
                                   .body = PEER_BODY_LENGTH,
                                   .body_bytes = post->body.len};

    bool again = post->type != RAFT_MSG_PROP; /* (I2) */

    b->post = post;
    b->url = mem_strdup(url->text);
    peer_call_start(&b->call, &link->peer->pool,
                    &(struct peer_call_options){.url = url,
                                                .request = request,
                                                .body = buf_bytes(&post->body),
                                                .dial_ms = peer_dial_ms(link->peer),
                                                .answer_ms = link->peer->timing.post,
                                                .answer_bytes_max = PEER_REFUSAL_BYTES_MAX,
                                                .reuse = again,
                                                .repeat = again});
}

/* ---- the queue ---- */

static struct peer_post *queue_pop(struct peer_pipeline *p)
{
    struct inbox_item *item = p->first;

    if (!item)
        return NULL;
    p->first = item->next;
    if (!p->first)
        p->last = &p->first;
    atomic_fetch_sub(&p->queued, 1);
    return container_of(item, struct peer_post, item);
}

static void queue_pump(struct peer_pipeline *p)
{
    for (int i = 0; i < PEER_POSTS_AT_ONCE && p->first; i++) {
        if (!p->posters[i].post)
            poster_start(&p->posters[i], queue_pop(p));
    }
}

static void inbox_take(struct peer_task *task)
{
    struct peer_pipeline *p = container_of(task, struct peer_pipeline, task);

    *p->last = inbox_drain(&p->inbox, NULL);
    while (*p->last)
        p->last = &(*p->last)->next;
    if (!p->stopped)
        queue_pump(p);
}

int peer_pipeline_send(struct peer_pipeline *p, const struct raft_message *m)
{
    struct peer_post *post;

    if (atomic_load(&p->queued) >= PEER_POSTS_MAX)
        return PEER_WRITER_E_FULL;
    post = mem_new(struct peer_post);
    post->type = m->type;
    int r = peer_message_encode(m, &post->body);
    if (r != 0) {
        post_free(post);
        return r;
    }
    atomic_fetch_add(&p->queued, 1);
    inbox_push_always(&p->inbox, &post->item);
    peer_loop_post(&p->link->peer->loop, &p->task);
    return 0;
}

/* ---- life ---- */

void peer_pipeline_init(struct peer_pipeline *p, struct peer_link *link)
{
    *p = (struct peer_pipeline){.link = link, .task = {.run = inbox_take}};
    p->last = &p->first;
    inbox_init(&p->inbox, PEER_POSTS_MAX);
    for (int i = 0; i < PEER_POSTS_AT_ONCE; i++)
        p->posters[i] = (struct peer_poster){.pipeline = p, .call = {.done = post_done}};
}

void peer_pipeline_stop(struct peer_pipeline *p)
{
    p->stopped = true;
    for (int i = 0; i < PEER_POSTS_AT_ONCE; i++) {
        peer_call_cancel(&p->posters[i].call);
        poster_done(&p->posters[i]);
    }
}

void peer_pipeline_deinit(struct peer_pipeline *p)
{
    struct peer_post *post;

    check(!atomic_load(&p->task.posted));
    while ((post = queue_pop(p)))
        post_free(post);
    inbox_deinit(&p->inbox);
}

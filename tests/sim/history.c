/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The history of all clients, checked as it comes. Revisions make linearizability a matter of
 * comparing numbers: each successful change has a revision of its own, and that is its place in the
 * only order that there can be.
 *
 *   (1) an answer is what the model answers at that place: writes at their entry, reads at the
 *       revision in their header.
 *   (2) real time: what was answered before a request began has a lower revision than the change it
 *       makes, and is seen by it if it reads. So each request takes the highest revision answered
 *       so far along as its floor.
 *   (3) what was refused before it was proposed has no entry.
 *   (4) a serializable read sees some revision, and on one member in one life never an older one
 *       than a serializable read that was answered before it began.
 *
 * A request with an unknown outcome may have an entry or not. Together with the checks on the log
 * (every answered write is an entry that never goes away) this is strict serializability.
 *
 * Thread: the only one.
 */
#include <stdio.h>

#include "base/check.h"
#include "tests/sim/clients.h"
#include "tests/sim/truth.h"

static struct {
    int64_t answered; /* (2) */
    struct {
        unsigned life;
        int64_t revision;
    } members[MACHINES_MAX + 1]; /* (4) */
    struct history_counts counts;
} history;

void history_init(void)
{
    memset(&history, 0, sizeof(history));
}

struct history_counts history_counts(void)
{
    return history.counts;
}

void history_begin(struct op *op)
{
    unsigned i = op->machine->number;

    if (!op->serializable)
        op->floor = history.answered;
    else if (history.members[i].life == op->machine->lives)
        op->floor = history.members[i].revision;
}

static void raise(int64_t *floor, int64_t revision)
{
    if (*floor < revision)
        *floor = revision;
}

/* ---- writes ---- */

/* Such an answer says that the entry was applied. */
static bool is_result(enum outcome outcome)
{
    switch (outcome) {
    case OUTCOME_OK:
    case OUTCOME_COMPACTED:
    case OUTCOME_FUTURE_REVISION:
    case OUTCOME_LEASE_NOT_FOUND:
    case OUTCOME_LEASE_EXISTS:
    case OUTCOME_NO_SPACE:
    case OUTCOME_CORRUPT: return true;
    default: return false;
    }
}

static bool is_refusal(enum outcome outcome)
{
    return outcome == OUTCOME_TOO_MANY_REQUESTS || outcome == OUTCOME_REQUEST_TOO_LARGE ||
           outcome == OUTCOME_DEADLINE; /* there was no leader all the time */
}

static bool may_be_unknown(enum outcome outcome)
{
    switch (outcome) {
    case OUTCOME_STOPPED:
    case OUTCOME_TIMEOUT:
    case OUTCOME_TIMEOUT_LEADER_FAILURE:
    case OUTCOME_TIMEOUT_CONNECTION_LOST:
    case OUTCOME_LEADER_CHANGED:
    case OUTCOME_NO_LEADER:
    case OUTCOME_LEARNER_UNSUPPORTED: return true;
    default: return false;
    }
}

static void end_write(struct op *op)
{
    uint64_t index = truth_find_request(op->request.id);
    bool changed;

    require(index > 0, "an answered request is in the log", "op %lu, request %lx",
            (unsigned long)op->number, (unsigned long)op->request.id);
    Etcdserverpb__InternalRaftRequest *q = truth_request(index);
    int64_t revision = model_check_answer(&truth_at(index)->mark, q, op->outcome,
                                          buf_bytes(&op->request.response), &changed);
    etcdserverpb__internal_raft_request__free_unpacked(q, NULL);
    require(revision > op->floor || (!changed && revision == op->floor), "real time",
            "op %lu at revision %ld began after %ld was answered", (unsigned long)op->number,
            (long)revision, (long)op->floor);
    raise(&history.answered, revision);
    history.counts.ok++;
}

/* ---- reads ---- */

static void end_compacted(const struct op *op)
{
    int64_t oldest = INT64_MAX;

    if (op->range)
        oldest = op->range->revision;
    for (size_t i = 0; op->ranges && i < op->ranges->n_success; i++)
        if (op->ranges->success[i]->request_range->revision > 0 &&
            op->ranges->success[i]->request_range->revision < oldest)
            oldest = op->ranges->success[i]->request_range->revision;
    for (size_t i = 0; op->ranges && i < op->ranges->n_failure; i++)
        if (op->ranges->failure[i]->request_range->revision > 0 &&
            op->ranges->failure[i]->request_range->revision < oldest)
            oldest = op->ranges->failure[i]->request_range->revision;
    require(oldest > 0 && oldest < model_compacted(), "answer",
            "op %lu: revision %ld is compacted, it says", (unsigned long)op->number, (long)oldest);
}

static void end_future(const struct op *op)
{
    require(op->ranges || op->serializable || op->range->revision > op->floor, "answer",
            "op %lu: revision %ld is in the future, it says, but %ld was answered",
            (unsigned long)op->number, (long)op->range->revision, (long)op->floor);
}

static void end_read(struct op *op)
{
    struct bytes response = buf_bytes(&op->request.response);
    unsigned i = op->machine->number;
    int64_t revision = op->range ? model_check_range(op->range, response)
                                 : model_check_ranges(op->ranges, response);

    require(!op->serializable || revision >= op->floor, "a member never goes back",
            "op %lu read at revision %ld, began after %ld was read", (unsigned long)op->number,
            (long)revision, (long)op->floor);
    require(op->serializable || revision >= op->floor, "real time",
            "op %lu read at revision %ld, began after %ld was answered", (unsigned long)op->number,
            (long)revision, (long)op->floor);
    history.counts.reads++;
    if (!op->serializable)
        raise(&history.answered, revision);
    if (history.members[i].life != op->life)
        history.members[i].revision = 0;
    history.members[i].life = op->life;
    raise(&history.members[i].revision, revision);
}

static void describe(void *arg)
{
    const struct op *op = arg;
    struct buf text = BUF_NULL;

    op_text(op, &text);
    printf("op %lu at m%u: %s\n", (unsigned long)op->number, op->machine->number, buf_cstr(&text));
    buf_deinit(&text);
}

static void end_op(struct op *op)
{
    if (op->unknown) {
        history.counts.unknown++;
    } else if (op->kind == OP_WRITE && is_result(op->outcome)) {
        end_write(op);
    } else if (op->kind != OP_WRITE && op->outcome == OUTCOME_OK) {
        end_read(op);
    } else if (op->kind != OP_WRITE && op->outcome == OUTCOME_COMPACTED) {
        end_compacted(op);
    } else if (op->kind != OP_WRITE && op->outcome == OUTCOME_FUTURE_REVISION) {
        end_future(op);
    } else if (is_refusal(op->outcome)) {
        history.counts.refused++;
    } else {
        require(may_be_unknown(op->outcome), "answer", "op %lu ends with outcome %d",
                (unsigned long)op->number, (int)op->outcome);
        history.counts.unknown++;
    }
}

void history_end(struct op *op)
{
    violated_context(describe, op);
    end_op(op);
    violated_context(NULL, NULL);
}

void history_finish(const struct op *ops)
{
    for (const struct op *op = ops; op; op = op->next)
        require(!op->done || op->unknown || op->kind != OP_WRITE || !is_refusal(op->outcome) ||
                    op->request.id == 0 || truth_find_request(op->request.id) == 0,
                "what was refused is not in the log", "op %lu", (unsigned long)op->number);
}

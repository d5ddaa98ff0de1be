/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From a RangeRequest to the encoded fields of a RangeResponse: fetch, filter, sort, cut, in etcd's
 * order. Used for plain reads, for RangeStream's chunks and for ranges inside transactions, so that
 * they can't differ.
 *
 * Thread: any for reads; the apply turn when view->writing.
 */
#pragma once

#include "rpc.pb-c.h"

#include "storage/mvcc.h"

struct range_view {
    struct mvcc *mvcc;
    bool writing;   /* inside the entry that the apply turn executes: sees its own changes */
    int64_t pinned; /* > 0: requests without a revision read at this one (read-only transactions) */
};

struct range_summary {
    int64_t current;  /* the header's revision */
    int64_t revision; /* the revision read at */
    int64_t count;
    int64_t sent; /* items encoded */
    bool more;
    struct buf last_key; /* of the last item encoded; only if keep_last_key */
};

struct range_flags {
    bool with_count; /* count all keys of the interval; else only what was fetched */
    bool keep_last_key;
};

/* Appends kvs, more and count to out (no header). Outcomes MVCC_E_COMPACTED, MVCC_E_FUTURE. Free
 * ret->last_key. */
int range_encode(const struct range_view *view, const Etcdserverpb__RangeRequest *request,
                 struct range_flags flags, struct buf *out, struct range_summary *ret);

struct interval range_interval(const Etcdserverpb__RangeRequest *request);
bool range_default_order(const Etcdserverpb__RangeRequest *request);
bool range_has_filters(const Etcdserverpb__RangeRequest *request);

static inline struct bytes bytes_of_pb(ProtobufCBinaryData d)
{
    return (struct bytes){d.data, d.len};
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Questions about leases between members (see lease_wire.h). Written by hand, because most of it is
 * numbers; read with the generated code, which takes what Go's takes.
 *
 * Thread: any; no state.
 */
#include "server/lease_wire.h"

#include "lease.pb-c.h"

#include "server/encode.h"

enum { FIELD_INNER = 1, FIELD_HEADER = 1, FIELD_KEY = 5 };

/* ---- keep-alives ---- */

void lease_wire_renew_put(struct buf *out, int64_t id)
{
    encode_i64(out, 1, id);
}

bool lease_wire_renew_read(struct bytes body, int64_t *ret_id)
{
    Etcdserverpb__LeaseKeepAliveRequest *m =
        etcdserverpb__lease_keep_alive_request__unpack(NULL, body.len, body.data);

    if (!m)
        return false;
    *ret_id = m->id;
    etcdserverpb__lease_keep_alive_request__free_unpacked(m, NULL);
    return true;
}

void lease_wire_renewed_put(struct buf *out, const struct lease_wire_renewed *r)
{
    encode_i64(out, 2, r->id);
    encode_i64(out, 3, r->ttl_s);
}

bool lease_wire_renewed_read(struct bytes body, struct lease_wire_renewed *ret)
{
    Etcdserverpb__LeaseKeepAliveResponse *m =
        etcdserverpb__lease_keep_alive_response__unpack(NULL, body.len, body.data);

    if (!m)
        return false;
    *ret = (struct lease_wire_renewed){m->id, m->ttl};
    etcdserverpb__lease_keep_alive_response__free_unpacked(m, NULL);
    return true;
}

/* ---- the time left ---- */

void lease_wire_question_put(struct buf *out, const struct lease_wire_question *q)
{
    size_t mark = encode_begin(out, FIELD_INNER);

    encode_i64(out, 1, q->id);
    encode_bool(out, 2, q->keys);
    encode_end(out, mark);
}

bool lease_wire_question_read(struct bytes body, struct lease_wire_question *ret)
{
    Leasepb__LeaseInternalRequest *m =
        leasepb__lease_internal_request__unpack(NULL, body.len, body.data);
    bool ok = m && m->leasetimetoliverequest;

    if (ok)
        *ret = (struct lease_wire_question){m->leasetimetoliverequest->id,
                                            m->leasetimetoliverequest->keys};
    if (m)
        leasepb__lease_internal_request__free_unpacked(m, NULL);
    return ok;
}

void lease_wire_left_fields(struct buf *out, const struct lease_wire_left *left)
{
    encode_i64(out, 2, left->id);
    encode_i64(out, 3, left->ttl_s);
    encode_i64(out, 4, left->granted_ttl_s);
    buf_append_bytes(out, left->keys);
}

void lease_wire_left_key(struct buf *keys, struct bytes key)
{
    encode_present_bytes(keys, FIELD_KEY, key);
}

void lease_wire_left_put(struct buf *out, const struct lease_wire_left *left)
{
    size_t mark = encode_begin(out, FIELD_INNER);

    encode_present_bytes(out, FIELD_HEADER, BYTES_NULL);
    lease_wire_left_fields(out, left);
    encode_end(out, mark);
}

static void left_take(const Etcdserverpb__LeaseTimeToLiveResponse *m, struct lease_wire_left *ret,
                      struct buf *keys)
{
    for (size_t i = 0; i < m->n_keys; i++)
        lease_wire_left_key(keys, bytes_of(m->keys[i].data, m->keys[i].len));
    *ret = (struct lease_wire_left){m->id, m->ttl, m->grantedttl, buf_bytes(keys)};
}

bool lease_wire_left_read(struct bytes body, struct lease_wire_left *ret, struct buf *keys)
{
    Leasepb__LeaseInternalResponse *m =
        leasepb__lease_internal_response__unpack(NULL, body.len, body.data);
    bool ok = m && m->leasetimetoliveresponse;

    if (ok)
        left_take(m->leasetimetoliveresponse, ret, keys);
    if (m)
        leasepb__lease_internal_response__free_unpacked(m, NULL);
    return ok;
}

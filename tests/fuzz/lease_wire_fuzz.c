/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Questions about leases between members, and their answers, from any bytes. Property: what was
 * read is read from what is written again.
 */
#include "base/check.h"
#include "server/lease_wire.h"
#include "tests/fuzz/fuzz.h"

static void one_renew(struct bytes in)
{
    _cleanup_(buf_deinit) struct buf out = BUF_NULL;
    int64_t id, again;

    if (!lease_wire_renew_read(in, &id))
        return;
    lease_wire_renew_put(&out, id);
    check(lease_wire_renew_read(buf_bytes(&out), &again) && again == id);
}

static void one_renewed(struct bytes in)
{
    _cleanup_(buf_deinit) struct buf out = BUF_NULL;
    struct lease_wire_renewed r, again;

    if (!lease_wire_renewed_read(in, &r))
        return;
    lease_wire_renewed_put(&out, &r);
    check(lease_wire_renewed_read(buf_bytes(&out), &again));
    check(again.id == r.id && again.ttl_s == r.ttl_s);
}

static void one_question(struct bytes in)
{
    _cleanup_(buf_deinit) struct buf out = BUF_NULL;
    struct lease_wire_question q, again;

    if (!lease_wire_question_read(in, &q))
        return;
    lease_wire_question_put(&out, &q);
    check(lease_wire_question_read(buf_bytes(&out), &again));
    check(again.id == q.id && again.keys == q.keys);
}

static void one_left(struct bytes in)
{
    _cleanup_(buf_deinit) struct buf keys = BUF_NULL, out = BUF_NULL, more = BUF_NULL;
    struct lease_wire_left left, again;

    if (!lease_wire_left_read(in, &left, &keys))
        return;
    lease_wire_left_put(&out, &left);
    check(lease_wire_left_read(buf_bytes(&out), &again, &more));
    check(again.id == left.id && again.ttl_s == left.ttl_s);
    check(again.granted_ttl_s == left.granted_ttl_s && bytes_equal(again.keys, left.keys));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct bytes in = bytes_of(data, size);

    one_renew(in);
    one_renewed(in);
    one_question(in);
    one_left(in);
    return 0;
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * raftpb.Message from any bytes. Properties: an outcome that is documented; what may be written of
 * what was read is read as the same again.
 */
#include "api/peer_message_test.h"
#include "tests/fuzz/fuzz.h"

static void check_same_again(const struct raft_message *m)
{
    _cleanup_(peer_message_deinit) struct peer_message again = {0};
    _cleanup_(buf_deinit) struct buf out = BUF_NULL;
    bool is_snapshot = m->type == RAFT_MSG_SNAP;
    int r = is_snapshot ? peer_snapshot_encode(m, &out) : peer_message_encode(m, &out);

    check(r == (peer_message_unsafe(m) ? PEER_MESSAGE_E_UNSAFE : 0));
    if (r != 0)
        return;
    size_t head = is_snapshot ? sizeof(uint64_t) : 0;
    r = peer_message_decode(bytes_of(out.data + head, out.len - head), &again);
    check(r == (is_snapshot ? PEER_MESSAGE_E_IGNORED : 0));
    check(test_messages_equal(m, &again.raft));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    _cleanup_(peer_message_deinit) struct peer_message m = {0};
    int r = peer_message_decode(bytes_of(data, size), &m);

    check(r == 0 || r == PEER_MESSAGE_E_WIRE || r == PEER_MESSAGE_E_IGNORED);
    if (r == 0 || (r == PEER_MESSAGE_E_IGNORED && !m.has_unknown_entry))
        check_same_again(&m.raft);
    return 0;
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the log says of senders that are refused: etcd's lines and fields (taken from one that ran),
 * and not more of them than the bounds say.
 */
#include "api/peer_refusal.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "api/peer_private.h"

enum { SAID_MAX = 1 << 16 };

static struct peer peer;
static char said[SAID_MAX];
static int saved = -1, file = -1;

static void capture(void)
{
    fflush(NULL);
    file = memfd_create("said", MFD_CLOEXEC);
    saved = dup(STDERR_FILENO);
    assert_true(file >= 0 && dup2(file, STDERR_FILENO) == STDERR_FILENO);
}

static void capture_end(void)
{
    ssize_t n = pread(file, said, sizeof(said) - 1, 0);

    dup2(saved, STDERR_FILENO);
    close(saved);
    close(file);
    assert_true(n >= 0);
    said[n] = '\0';
}

static unsigned lines(void)
{
    unsigned n = 0;

    for (const char *c = said; *c; c++)
        n += *c == '\n';
    return n;
}

static void assert_said(const char *text)
{
    if (!strstr(said, text))
        fail_msg("nobody says\n%s\nin\n%s", text, said);
}

static int setup(void **state)
{
    peer = (struct peer){.identity = {.member_id = 0xa1, .cluster_id = 0xc1}};
    return 0;
}

static struct peer_sender sender_of(const char *name)
{
    return (struct peer_sender){.name = bytes_str(name),
                                .version = BYTES_LIT("3.7.1"),
                                .version_min = BYTES_LIT("3.0.0"),
                                .cluster = BYTES_LIT("c2")};
}

#define OWN                                                                                        \
    "\"local-member-id\":\"a1\",\"local-member-cluster-id\":\"c1\","                               \
    "\"local-member-server-version\":\"3.7.1\","                                                   \
    "\"local-member-server-minimum-cluster-version\":\"3.0.0\","

static void test_senders(void **state)
{
    struct peer_sender s = sender_of("b2");

    capture();
    peer_refused_sender(&peer, PEER_HEADER_E_CLUSTER, &s);
    s.version_min = BYTES_LIT("3.8.0");
    peer_refused_sender(&peer, PEER_HEADER_E_VERSION, &s);
    s = sender_of("b3");
    s.version = BYTES_LIT("2.3.0");
    s.version_too_low = true;
    peer_refused_sender(&peer, PEER_HEADER_E_VERSION, &s);
    capture_end();
    assert_said("\"msg\":\"request cluster ID mismatch\"," OWN
                "\"remote-peer-server-name\":\"b2\",\"remote-peer-server-version\":\"3.7.1\","
                "\"remote-peer-server-minimum-cluster-version\":\"3.0.0\","
                "\"remote-peer-cluster-id\":\"c2\"}");
    assert_said("\"msg\":\"failed version compatibility check\"," OWN
                "\"remote-peer-server-name\":\"b2\",\"remote-peer-server-version\":\"3.7.1\","
                "\"remote-peer-server-minimum-cluster-version\":\"3.8.0\","
                "\"error\":\"local version is too low: remote[b2]=3.7.1, local=3.7.1\"}");
    assert_said("\"error\":\"remote version is too low: remote[b3]=2.3.0, local=3.7.1\"}");
    assert_int_equal(lines(), 3);
}

#define STREAM "\"local-member-id\":\"a1\",\"remote-peer-id-stream-handler\":\"a1\","

static void test_streams_and_messages(void **state)
{
    struct raft_message m = {.from = 0xb2, .to = 0xa7};

    capture();
    peer_refused_path(&peer, BYTES_LIT("xyz"));
    peer_refused_removed(&peer, 0xb2);
    peer_refused_unknown(&peer, 0xb2);
    peer_refused_to(&peer, 0xb2, BYTES_LIT("a7"));
    peer_refused_message(&peer, PEER_REMOVED, &m);
    peer_refused_message(&peer, PEER_WRONG_TO, &m);
    peer_refused_message(&peer, PEER_FULL, &m);
    peer_refused_message(&peer, PEER_OK, &m);
    capture_end();
    assert_said("\"msg\":\"failed to parse path into ID\"," STREAM "\"path\":\"xyz\","
                "\"error\":\"strconv.ParseUint: parsing \\\"xyz\\\": invalid syntax\"}");
    assert_said("\"msg\":\"rejected stream from remote peer because it was removed\"," STREAM
                "\"remote-peer-id-from\":\"b2\"}");
    assert_said("\"msg\":\"failed to find remote peer in cluster\"," STREAM
                "\"remote-peer-id-from\":\"b2\",\"cluster-id\":\"c1\"}");
    assert_said("\"msg\":\"ignored streaming request; ID mismatch\"," STREAM
                "\"remote-peer-id-header\":\"a7\",\"remote-peer-id-from\":\"b2\","
                "\"cluster-id\":\"c1\"}");
    assert_said("\"msg\":\"rejected Raft message from removed member\",\"local-member-id\":\"a1\","
                "\"removed-member-id\":\"b2\"}");
    assert_said("\"msg\":\"rejected Raft message to mismatch member\",\"local-member-id\":\"a1\","
                "\"mismatch-member-id\":\"a7\"}");
    assert_int_equal(lines(), 6);
}

/* A sender that goes on gets one line of a kind; a text of a sender's is not written at length. */
static void test_not_again_and_not_long(void **state)
{
    static char name[4096];
    struct peer_sender one = sender_of("b2"), long_one = sender_of("b2");

    memset(name, 'n', sizeof(name));
    long_one.name = long_one.version = long_one.version_min = long_one.cluster =
        bytes_of(name, sizeof(name));
    capture();
    for (int i = 0; i < 100; i++) {
        peer_refused_sender(&peer, PEER_HEADER_E_CLUSTER, &one);
        peer_refused_removed(&peer, 0xb2);
    }
    peer_refused_sender(&peer, PEER_HEADER_E_CLUSTER, &long_one);
    peer_refused_sender(&peer, PEER_HEADER_E_VERSION, &long_one);
    capture_end();
    assert_int_equal(lines(), 4);
    assert_true(strlen(said) < 4096);
}

static void test_allow(void **state)
{
    struct peer_refusals r = {0};

    for (uint64_t key = 0; key < 100; key++)
        assert_int_equal(peer_refusals_allow(&r, key, 1000 + key), key < PEER_REFUSALS_MAX);
    assert_false(peer_refusals_allow(&r, 0, 1000 + PEER_REFUSAL_INTERVAL_MS - 1));
    assert_true(peer_refusals_allow(&r, 99, 1000 + PEER_REFUSAL_INTERVAL_MS));
    assert_false(peer_refusals_allow(&r, 0, 1000 + PEER_REFUSAL_INTERVAL_MS));
    assert_false(peer_refusals_allow(&r, 99, 1000 + 2 * PEER_REFUSAL_INTERVAL_MS - 1));
    assert_true(peer_refusals_allow(&r, 0, 1001 + PEER_REFUSAL_INTERVAL_MS));
    for (uint64_t key = 0; key < PEER_REFUSALS_MAX; key++)
        assert_true(peer_refusals_allow(&r, key, 1000 + 3 * PEER_REFUSAL_INTERVAL_MS));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_senders, setup),
        cmocka_unit_test_setup(test_streams_and_messages, setup),
        cmocka_unit_test_setup(test_not_again_and_not_long, setup),
        cmocka_unit_test(test_allow),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

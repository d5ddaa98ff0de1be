/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every outcome has a row, and each text that starts with "etcdserver: " is one of etcd's 63, with
 * its code.
 */
#include "api/status.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#define E(text) "etcdserver: " text

/* What clients know: the statuses of etcd 3.7.1. */
static const struct status known[] = {
    {STATUS_INVALID_ARGUMENT, E("authentication failed, invalid user ID or password")},
    {STATUS_INVALID_ARGUMENT, E("duplicate key given in txn request")},
    {STATUS_INVALID_ARGUMENT, E("given member URLs are invalid")},
    {STATUS_INVALID_ARGUMENT, E("invalid auth management")},
    {STATUS_INVALID_ARGUMENT, E("invalid client api version")},
    {STATUS_INVALID_ARGUMENT, E("invalid downgrade target version")},
    {STATUS_INVALID_ARGUMENT, E("invalid sort option")},
    {STATUS_INVALID_ARGUMENT, E("key is not provided")},
    {STATUS_INVALID_ARGUMENT, E("key not found")},
    {STATUS_INVALID_ARGUMENT, E("lease is provided")},
    {STATUS_INVALID_ARGUMENT, E("permission not given")},
    {STATUS_INVALID_ARGUMENT, E("request is too large")},
    {STATUS_INVALID_ARGUMENT, E("revision of auth store is old")},
    {STATUS_INVALID_ARGUMENT, E("role name is empty")},
    {STATUS_INVALID_ARGUMENT, E("too many operations in txn request")},
    {STATUS_INVALID_ARGUMENT, E("user name is empty")},
    {STATUS_INVALID_ARGUMENT, E("value is provided")},
    {STATUS_INVALID_ARGUMENT, E("wrong downgrade target version format")},
    {STATUS_OUT_OF_RANGE, E("mvcc: required revision has been compacted")},
    {STATUS_OUT_OF_RANGE, E("mvcc: required revision is a future revision")},
    {STATUS_OUT_OF_RANGE, E("too large lease TTL")},
    {STATUS_RESOURCE_EXHAUSTED, E("mvcc: database space exceeded")},
    {STATUS_RESOURCE_EXHAUSTED, E("too many requests")},
    {STATUS_NOT_FOUND, E("member not found")},
    {STATUS_NOT_FOUND, E("requested lease not found")},
    {STATUS_FAILED_PRECONDITION, E("Peer URLs already exists")},
    {STATUS_FAILED_PRECONDITION, E("authentication is not enabled")},
    {STATUS_FAILED_PRECONDITION, E("bad leader transferee")},
    {STATUS_FAILED_PRECONDITION, E("can only promote a learner member")},
    {STATUS_FAILED_PRECONDITION,
     E("can only promote a learner member which is in sync with leader")},
    {STATUS_FAILED_PRECONDITION, E("cluster ID mismatch")},
    {STATUS_FAILED_PRECONDITION, E("cluster has a downgrade job in progress")},
    {STATUS_FAILED_PRECONDITION, E("cluster version not found during downgrade")},
    {STATUS_FAILED_PRECONDITION, E("lease already exists")},
    {STATUS_FAILED_PRECONDITION, E("member ID already exist")},
    {STATUS_FAILED_PRECONDITION, E("no inflight downgrade job")},
    {STATUS_FAILED_PRECONDITION, E("not capable")},
    {STATUS_FAILED_PRECONDITION, E("not leader")},
    {STATUS_FAILED_PRECONDITION, E("permission is not granted to the role")},
    {STATUS_FAILED_PRECONDITION, E("re-configuration failed due to not enough started members")},
    {STATUS_FAILED_PRECONDITION, E("role is not granted to the user")},
    {STATUS_FAILED_PRECONDITION, E("role name already exists")},
    {STATUS_FAILED_PRECONDITION, E("role name not found")},
    {STATUS_FAILED_PRECONDITION, E("root user does not exist")},
    {STATUS_FAILED_PRECONDITION, E("root user does not have root role")},
    {STATUS_FAILED_PRECONDITION, E("rpc not supported for learner")},
    {STATUS_FAILED_PRECONDITION, E("too many learner members in cluster")},
    {STATUS_FAILED_PRECONDITION, E("user name already exists")},
    {STATUS_FAILED_PRECONDITION, E("user name not found")},
    {STATUS_CANCELED, E("request canceled")},
    {STATUS_CANCELED, E("watch canceled")},
    {STATUS_PERMISSION_DENIED, E("permission denied")},
    {STATUS_UNAUTHENTICATED, E("invalid auth token")},
    {STATUS_UNAVAILABLE, E("leader changed")},
    {STATUS_UNAVAILABLE, E("no leader")},
    {STATUS_UNAVAILABLE, E("request timed out")},
    {STATUS_UNAVAILABLE, E("request timed out, possibly due to connection lost")},
    {STATUS_UNAVAILABLE, E("request timed out, possibly due to previous leader failure")},
    {STATUS_UNAVAILABLE, E("request timed out, waiting for the applied index took too long")},
    {STATUS_UNAVAILABLE, E("server stopped")},
    {STATUS_UNAVAILABLE, E("unhealthy cluster")},
    {STATUS_DATA_LOSS, E("corrupt cluster")},
    {STATUS_DEADLINE_EXCEEDED, E("context deadline exceeded")},
};

/* These two travel as Unknown, whatever the table of statuses says. */
static bool travels_as_unknown(const char *text)
{
    return strcmp(text, E("too many requests")) == 0 ||
           strcmp(text, E("re-configuration failed due to not enough started members")) == 0;
}

/* Not among the texts that clients know: two are ours alone, one leaves etcd without a code. */
static bool is_not_for_clients(enum outcome outcome)
{
    return outcome == OUTCOME_UNIMPLEMENTED || outcome == OUTCOME_INTERNAL ||
           outcome == OUTCOME_TIMEOUT_LEADER_TRANSFER;
}

static const struct status *find_known(const char *text)
{
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
        if (strcmp(known[i].text, text) == 0)
            return &known[i];
    return NULL;
}

static void test_every_outcome_has_a_row(void **state)
{
    for (enum outcome outcome = OUTCOME_OK; outcome < OUTCOME_COUNT; outcome++) {
        const struct status *status = status_of(outcome);

        if (strcmp(status->text, "unknown error") == 0)
            fail_msg("outcome %d has no row", (int)outcome);
        assert_int_equal(status->code == STATUS_OK, outcome == OUTCOME_OK);
        assert_int_equal(status->text[0] == '\0', outcome == OUTCOME_OK);
    }
    assert_int_equal(status_of(OUTCOME_COUNT)->code, STATUS_UNKNOWN);
    assert_int_equal(status_of((enum outcome) - 1)->code, STATUS_UNKNOWN);
}

static void test_texts_are_known(void **state)
{
    assert_int_equal(sizeof(known) / sizeof(known[0]), 63);
    for (enum outcome outcome = OUTCOME_OK; outcome < OUTCOME_COUNT; outcome++) {
        const struct status *status = status_of(outcome);
        const struct status *etcd = find_known(status->text);

        if (is_not_for_clients(outcome) || strncmp(status->text, E(""), strlen(E(""))) != 0)
            continue;
        if (!etcd)
            fail_msg("etcd does not say \"%s\"", status->text);
        else
            assert_int_equal(status->code,
                             travels_as_unknown(etcd->text) ? STATUS_UNKNOWN : etcd->code);
    }
}

static void test_texts_are_distinct(void **state)
{
    for (enum outcome a = OUTCOME_OK; a < OUTCOME_COUNT; a++)
        for (enum outcome b = a + 1; b < OUTCOME_COUNT; b++)
            assert_string_not_equal(status_of(a)->text, status_of(b)->text);
}

static void test_code_names(void **state)
{
    assert_string_equal(status_code_name(STATUS_OK), "OK");
    assert_string_equal(status_code_name(STATUS_CANCELED), "Canceled");
    assert_string_equal(status_code_name(STATUS_OUT_OF_RANGE), "OutOfRange");
    assert_string_equal(status_code_name(STATUS_UNAUTHENTICATED), "Unauthenticated");
    assert_int_equal(STATUS_UNAUTHENTICATED, 16);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_outcome_has_a_row),
        cmocka_unit_test(test_texts_are_known),
        cmocka_unit_test(test_texts_are_distinct),
        cmocka_unit_test(test_code_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

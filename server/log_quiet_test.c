/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a member logs when nothing happens: nothing, however often its clock ticks; and when nobody
 * hears it, a few lines for the whole of that time. (etcd logged a line at each tick of a member
 * without a stored configuration: 20496.) The linker lets us count the lines.
 */
#include "server/test_cluster.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#include "storage/db_mem.h"

enum { MINUTE_MS = 60000, TICK_MS = 100, LINES_ALONE_MAX = 10 };

static unsigned lines;
static char last[200];

void __wrap_log_line(enum log_level level, const char *file, int line, const char *msg,
                     const struct log_field *fields);
void __wrap_log_line(enum log_level level, const char *file, int line, const char *msg,
                     const struct log_field *fields)
{
    lines++;
    snprintf(last, sizeof(last), "%s:%d: %s", file, line, msg);
}

static void assert_lines(unsigned most)
{
    if (lines > most)
        fail_msg("%u lines, the last one: %s", lines, last);
    lines = 0;
}

static void test_idle_member(void **state)
{
    struct box *b = box_start();

    assert_true(lines > 0); /* it has said that it is there */
    lines = 0;
    for (int i = 0; i < 10 * MINUTE_MS / TICK_MS; i++) {
        b->now_ms += TICK_MS;
        box_run(b);
    }
    assert_lines(0);
    box_free(b);
}

static void test_idle_cluster(void **state)
{
    struct cluster *c = cluster_new(3, 0);

    cluster_settle(c);
    cluster_puts(c, 0, 3);
    lines = 0;
    cluster_run(c, 5 * MINUTE_MS);
    assert_lines(0);
    cluster_free(c);
    db_mem_forget();
}

/* Nobody hears it, and it asks for votes again and again: also one that has just been founded and
 * has no configuration applied yet. */
static void alone(struct cluster *c, size_t i)
{
    lines = 0;
    for (uint64_t until = c->now_ms + 5 * MINUTE_MS; c->now_ms < until;) {
        c->now_ms += CLUSTER_STEP_MS;
        assert_int_equal(member_step(c, i), 0);
    }
    assert_lines(LINES_ALONE_MAX);
}

static void test_alone(void **state)
{
    struct cluster *c = cluster_new(3, 0);

    alone(c, 1);
    cluster_settle(c);
    for (size_t i = 0; i < 3; i++) {
        c->peers[i].cut = true;
        alone(c, i);
        c->peers[i].cut = false;
        cluster_settle(c);
    }
    cluster_free(c);
    db_mem_forget();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_idle_member),
        cmocka_unit_test(test_idle_cluster),
        cmocka_unit_test(test_alone),
    };

    log_level_min = LOG_INFO;
    return cmocka_run_group_tests(tests, NULL, NULL);
}

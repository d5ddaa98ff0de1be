/* SPDX-License-Identifier: Apache-2.0 */
/* The metrics of the process: what is read out of /proc, and that it is this process. */
#include "server/process_metrics.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/metrics.h"

#define STAT_TAIL                                                                                  \
    " S 1 2 3 4 -1 5 6 7 8 9 1234 766 12 13 20 0 42 0 98765 4096000 321 18446744073709551615 1 1 " \
    "0"

static void test_stat(void **state)
{
    struct process_stat s;

    assert_true(process_stat_parse("77 (cairn)" STAT_TAIL, 100, 4096, &s));
    assert_true(s.cpu_seconds == 20.0);
    assert_true(s.start_s == 987.65);
    assert_int_equal(s.virtual_bytes, 4096000);
    assert_int_equal(s.resident_bytes, 321 * 4096);
    assert_true(process_stat_parse("77 (a) S 1 (b)" STAT_TAIL, 100, 4096, &s));
    assert_int_equal(s.resident_bytes, 321 * 4096);
    assert_false(process_stat_parse("", 100, 4096, &s));
    assert_false(process_stat_parse("77 (cairn) S 1 2 3", 100, 4096, &s));
    assert_false(process_stat_parse("77 (cairn", 100, 4096, &s));
}

static void test_netstat(void **state)
{
    uint64_t in = 0, out = 0;

    assert_true(process_netstat_parse("TcpExt: InOctets A\nTcpExt: 1 2\n"
                                      "IpExt: InNoRoutes InOctets OutOctets InMcastOctets\n"
                                      "IpExt: 7 32846591842 32207938128 9\n"
                                      "MPTcpExt: X\nMPTcpExt: 5\n",
                                      &in, &out));
    assert_int_equal(in, 32846591842);
    assert_int_equal(out, 32207938128);
    assert_false(process_netstat_parse("", &in, &out));
    assert_false(process_netstat_parse("IpExt: InOctets OutOctets\n", &in, &out));
    assert_false(process_netstat_parse("IpExt: InOctets X\nIpExt: 1 2\n", &in, &out));
    assert_false(process_netstat_parse("IpExt: A InOctets OutOctets\nIpExt: 1 2\n", &in, &out));
}

/* The value of a metric in what is rendered now. */
static double rendered(const char *name)
{
    _cleanup_(buf_deinit) struct buf out = BUF_NULL;

    metrics_render(&out);
    for (const char *line = buf_cstr(&out); line; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (strncmp(line, name, strlen(name)) == 0 && line[strlen(name)] == ' ')
            return strtod(line + strlen(name), NULL);
    }
    fail_msg("%s is not there", name);
    return 0;
}

/* Each rendering looks again, also for those that show the sample of another. */
static void test_descriptors(void **state)
{
    double before = rendered("process_open_fds");
    int fd = open("/dev/null", O_RDONLY);

    assert_true(fd >= 0);
    assert_true(rendered("process_open_fds") == before + 1);
    assert_true(rendered("os_fd_used") == before + 1);
    close(fd);
    assert_true(rendered("process_open_fds") == before);
    assert_true(rendered("process_max_fds") == (double)sysconf(_SC_OPEN_MAX));
    assert_true(rendered("os_fd_limit") == (double)sysconf(_SC_OPEN_MAX));
}

enum { BLOCK_BYTES = 32 << 20, BURN_TICKS = 3 };

static void test_memory(void **state)
{
    double resident = rendered("process_resident_memory_bytes");
    double virtual_bytes = rendered("process_virtual_memory_bytes");
    char *block = malloc(BLOCK_BYTES);

    assert_non_null(block);
    for (size_t i = 0; i < BLOCK_BYTES; i += 1024)
        ((volatile char *)block)[i] = 1;
    assert_true(resident > 100000 && virtual_bytes >= resident);
    assert_true(rendered("process_resident_memory_bytes") > resident + BLOCK_BYTES / 2);
    assert_true(rendered("process_virtual_memory_bytes") > virtual_bytes + BLOCK_BYTES / 2);
    assert_true(rendered("process_virtual_memory_max_bytes") > virtual_bytes);
    free(block);
}

static double cpu_seconds(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static void test_times(void **state)
{
    double tick = 1.0 / (double)sysconf(_SC_CLK_TCK), now = (double)time(NULL), start;
    double before = rendered("process_cpu_seconds_total"),
           until = cpu_seconds() + BURN_TICKS * tick;

    while (cpu_seconds() < until)
        ;
    double after = rendered("process_cpu_seconds_total");
    assert_true(after >= before + tick && after <= cpu_seconds() + 2 * tick);
    start = rendered("process_start_time_seconds");
    assert_true(start <= now + 1 && start > now - 3600);
    assert_true(rendered("process_network_receive_bytes_total") >= 0);
    assert_true(rendered("process_network_transmit_bytes_total") >= 0);
}

static int register_all(void **state)
{
    process_metrics_register();
    process_metrics_register(); /* changes nothing */
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_stat), cmocka_unit_test(test_netstat),
                                       cmocka_unit_test(test_descriptors),
                                       cmocka_unit_test(test_memory), cmocka_unit_test(test_times)};

    return cmocka_run_group_tests(tests, register_all, NULL);
}

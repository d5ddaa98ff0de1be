/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The process as Prometheus sees it (see process_metrics.h).
 *
 * Several families come from one look at the system. Families are rendered in the order of their
 * names, so the first of each group looks and those behind it show what it saw (the table `rows`).
 * What can't be looked at now (no descriptor is left, say) keeps its last value; what could not be
 * looked at when the metrics were registered is not there at all.
 *
 * Thread: whoever renders, under the registry's lock, which guards `seen`.
 */
#include "server/process_metrics.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "base/metrics.h"

enum { PROC_FILE_BYTES_MAX = 16384 };

static struct {
    double fds, fds_max;
    double cpu_seconds, start_s;
    double resident_bytes, virtual_bytes, virtual_bytes_max;
    double received_bytes, transmitted_bytes;
} seen;

/* ---- /proc ---- */

/* The file as text, cut at the buffer's end. */
static bool proc_read(const char *path, char buffer[PROC_FILE_BYTES_MAX])
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    size_t len = 0;
    ssize_t n = 0;

    if (fd < 0)
        return false;
    while (len < PROC_FILE_BYTES_MAX - 1 &&
           (n = read(fd, buffer + len, PROC_FILE_BYTES_MAX - 1 - len)) > 0)
        len += (size_t)n;
    close(fd);
    buffer[len] = '\0';
    return n >= 0 && len > 0;
}

bool process_stat_parse(const char *text, uint64_t ticks_per_s, uint64_t page_bytes,
                        struct process_stat *ret)
{
    unsigned long long user, system, start, virtual_bytes;
    long long resident_pages;
    /* The program's name stands in parentheses and may hold anything, these included. */
    const char *rest = strrchr(text, ')');

    if (!rest || sscanf(rest + 1,
                        " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu %*d %*d %*d %*d "
                        "%*d %*d %llu %llu %lld",
                        &user, &system, &start, &virtual_bytes, &resident_pages) != 5)
        return false;
    *ret = (struct process_stat){
        .cpu_seconds = (double)(user + system) / (double)ticks_per_s,
        .start_s = (double)start / (double)ticks_per_s,
        .virtual_bytes = virtual_bytes,
        .resident_bytes = resident_pages > 0 ? (uint64_t)resident_pages * page_bytes : 0,
    };
    return true;
}

/* Two lines: names, and values in the same order. */
bool process_netstat_parse(const char *text, uint64_t *ret_in_bytes, uint64_t *ret_out_bytes)
{
    static const char start[] = "IpExt: ";
    const char *names = strstr(text, start), *values = names ? strstr(names + 1, start) : NULL;
    bool in = false, out = false;

    if (!values)
        return false;
    names += sizeof(start) - 1;
    values += sizeof(start) - 1;
    while (*names && *names != '\n' && *values && *values != '\n') {
        size_t name_len = strcspn(names, " \n"), value_len = strcspn(values, " \n");
        if (name_len == 8 && memcmp(names, "InOctets", 8) == 0) {
            *ret_in_bytes = strtoull(values, NULL, 10);
            in = true;
        } else if (name_len == 9 && memcmp(names, "OutOctets", 9) == 0) {
            *ret_out_bytes = strtoull(values, NULL, 10);
            out = true;
        }
        names += name_len + (names[name_len] == ' ');
        values += value_len + (values[value_len] == ' ');
    }
    return in && out;
}

/* ---- looking ---- */

static double seconds(clockid_t clock)
{
    struct timespec ts = {0};

    clock_gettime(clock, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

/* The start does not change when someone sets the clock later. */
static bool look_at_stat(void)
{
    uint64_t ticks_per_s = (uint64_t)sysconf(_SC_CLK_TCK);
    uint64_t page_bytes = (uint64_t)sysconf(_SC_PAGESIZE);
    char text[PROC_FILE_BYTES_MAX];
    struct process_stat stat;

    if (!proc_read("/proc/self/stat", text) ||
        !process_stat_parse(text, ticks_per_s, page_bytes, &stat))
        return false;
    seen.cpu_seconds = stat.cpu_seconds;
    seen.resident_bytes = (double)stat.resident_bytes;
    seen.virtual_bytes = (double)stat.virtual_bytes;
    if (seen.start_s == 0) {
        double boot_s = seconds(CLOCK_REALTIME) - seconds(CLOCK_BOOTTIME);
        seen.start_s = (double)(int64_t)((boot_s + stat.start_s) * 100) / 100;
    }
    return true;
}

static bool look_at_network(void)
{
    char text[PROC_FILE_BYTES_MAX];
    uint64_t in, out;

    if (!proc_read("/proc/self/net/netstat", text) || !process_netstat_parse(text, &in, &out))
        return false;
    seen.received_bytes = (double)in;
    seen.transmitted_bytes = (double)out;
    return true;
}

/* Without the descriptor that counting takes. */
static bool look_at_fds(void)
{
    DIR *d = opendir("/proc/self/fd");

    if (!d)
        return false;
    uint64_t n = 0;
    for (const struct dirent *e = readdir(d); e; e = readdir(d))
        n += e->d_name[0] != '.';
    closedir(d);
    seen.fds = (double)(n - 1);
    return true;
}

/* "Unlimited" as etcd shows it: the largest 64-bit number. */
static bool look_at_limits(void)
{
    struct rlimit l;

    seen.fds_max = getrlimit(RLIMIT_NOFILE, &l) == 0 ? (double)l.rlim_cur : 0;
    seen.virtual_bytes_max = getrlimit(RLIMIT_AS, &l) == 0 ? (double)l.rlim_cur : 0;
    return true;
}

/* ---- the metrics ---- */

struct row {
    struct metric_family family;
    bool (*look)(void); /* NULL: the row above has looked */
    const double *value;
    struct metric metric;
};

#define ROW(metric_name, metric_kind, look, field, text)                                           \
    {                                                                                              \
        {.name = (metric_name), .help = (text), .kind = METRIC_##metric_kind}, look, &seen.field,  \
        {                                                                                          \
            0                                                                                      \
        }                                                                                          \
    }

/* By group, and by name in each. */
static struct row rows[] = {
    ROW("os_fd_used", GAUGE, look_at_fds, fds, "The number of used file descriptors."),
    ROW("process_open_fds", GAUGE, NULL, fds, "Number of open file descriptors."),

    ROW("os_fd_limit", GAUGE, look_at_limits, fds_max, "The file descriptor limit."),
    ROW("process_max_fds", GAUGE, NULL, fds_max, "Maximum number of open file descriptors."),
    ROW("process_virtual_memory_max_bytes", GAUGE, NULL, virtual_bytes_max,
        "Maximum amount of virtual memory available in bytes."),

    ROW("process_cpu_seconds_total", COUNTER, look_at_stat, cpu_seconds,
        "Total user and system CPU time spent in seconds."),
    ROW("process_resident_memory_bytes", GAUGE, NULL, resident_bytes,
        "Resident memory size in bytes."),
    ROW("process_start_time_seconds", GAUGE, NULL, start_s,
        "Start time of the process since unix epoch in seconds."),
    ROW("process_virtual_memory_bytes", GAUGE, NULL, virtual_bytes,
        "Virtual memory size in bytes."),

    ROW("process_network_receive_bytes_total", COUNTER, look_at_network, received_bytes,
        "Number of bytes received by the process over the network."),
    ROW("process_network_transmit_bytes_total", COUNTER, NULL, transmitted_bytes,
        "Number of bytes sent by the process over the network."),
};

static double show(void *arg)
{
    const struct row *row = arg;

    if (row->look)
        (void)row->look();
    return *row->value;
}

void process_metrics_register(void)
{
    bool is_there = false;

    if (rows[0].metric.arg)
        return;
    for (struct row *row = rows; row < rows + sizeof(rows) / sizeof(rows[0]); row++) {
        row->metric.read = show;
        row->metric.arg = row;
        if (row->look)
            is_there = row->look();
        if (is_there)
            metrics_register(&row->family, &row->metric);
    }
}

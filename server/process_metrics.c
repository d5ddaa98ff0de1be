/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The process as Prometheus sees it (see process_metrics.h).
 *
 * Several families come from one file of /proc, which is read once for all of them: families are
 * rendered in the order of their names, so the first of each group takes the sample and those after
 * it show it.
 *
 *   group     first                                 after it
 *   fds       os_fd_used                            process_open_fds
 *   stat      process_cpu_seconds_total             _resident_memory_bytes, _virtual_memory_bytes
 *   network   process_network_receive_bytes_total   _transmit_bytes_total
 *
 * A file that can't be read (no descriptor is left, say) leaves the sample before it in place.
 *
 * Thread: whoever renders, under the registry's lock, which guards the sample.
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
    struct process_stat stat;
    uint64_t received_bytes;
    uint64_t transmitted_bytes;
    uint64_t open_fds;
} sample;

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

static bool sample_stat(void)
{
    char text[PROC_FILE_BYTES_MAX];

    return proc_read("/proc/self/stat", text) &&
           process_stat_parse(text, (uint64_t)sysconf(_SC_CLK_TCK), (uint64_t)sysconf(_SC_PAGESIZE),
                              &sample.stat);
}

static bool sample_network(void)
{
    char text[PROC_FILE_BYTES_MAX];

    return proc_read("/proc/self/net/netstat", text) &&
           process_netstat_parse(text, &sample.received_bytes, &sample.transmitted_bytes);
}

/* Without the descriptor that counting takes. */
static bool sample_fds(void)
{
    DIR *d = opendir("/proc/self/fd");

    if (!d)
        return false;
    uint64_t n = 0;
    for (const struct dirent *e = readdir(d); e; e = readdir(d))
        n += e->d_name[0] != '.';
    closedir(d);
    sample.open_fds = n - 1;
    return true;
}

/* ---- the metrics ---- */

/* As etcd shows "unlimited": the largest 64-bit number. */
static double limit(int resource)
{
    struct rlimit l;

    return getrlimit(resource, &l) == 0 ? (double)l.rlim_cur : 0;
}

static double read_fd_limit(void *arg)
{
    (void)arg;
    return limit(RLIMIT_NOFILE);
}

static double read_fds_first(void *arg)
{
    (void)arg;
    (void)sample_fds();
    return (double)sample.open_fds;
}

static double read_fds(void *arg)
{
    (void)arg;
    return (double)sample.open_fds;
}

static double read_cpu_first(void *arg)
{
    (void)arg;
    (void)sample_stat();
    return sample.stat.cpu_seconds;
}

static double read_resident(void *arg)
{
    (void)arg;
    return (double)sample.stat.resident_bytes;
}

static double read_virtual(void *arg)
{
    (void)arg;
    return (double)sample.stat.virtual_bytes;
}

static double read_virtual_max(void *arg)
{
    (void)arg;
    return limit(RLIMIT_AS);
}

static double read_received_first(void *arg)
{
    (void)arg;
    (void)sample_network();
    return (double)sample.received_bytes;
}

static double read_transmitted(void *arg)
{
    (void)arg;
    return (double)sample.transmitted_bytes;
}

#define PROCESS_METRIC(var, metric_name, metric_kind, reader, text)                                \
    static struct metric var = {.read = (reader)};                                                 \
    static struct metric_family var##_family = {                                                   \
        .name = (metric_name), .help = (text), .kind = (metric_kind)};

PROCESS_METRIC(fd_limit, "os_fd_limit", METRIC_GAUGE, read_fd_limit, "The file descriptor limit.")
PROCESS_METRIC(fd_used, "os_fd_used", METRIC_GAUGE, read_fds_first,
               "The number of used file descriptors.")
PROCESS_METRIC(max_fds, "process_max_fds", METRIC_GAUGE, read_fd_limit,
               "Maximum number of open file descriptors.")
PROCESS_METRIC(open_fds, "process_open_fds", METRIC_GAUGE, read_fds,
               "Number of open file descriptors.")
PROCESS_METRIC(cpu_seconds, "process_cpu_seconds_total", METRIC_COUNTER, read_cpu_first,
               "Total user and system CPU time spent in seconds.")
PROCESS_METRIC(resident, "process_resident_memory_bytes", METRIC_GAUGE, read_resident,
               "Resident memory size in bytes.")
PROCESS_METRIC(virtual_memory, "process_virtual_memory_bytes", METRIC_GAUGE, read_virtual,
               "Virtual memory size in bytes.")
PROCESS_METRIC(virtual_max, "process_virtual_memory_max_bytes", METRIC_GAUGE, read_virtual_max,
               "Maximum amount of virtual memory available in bytes.")
PROCESS_METRIC(start_time, "process_start_time_seconds", METRIC_GAUGE, NULL,
               "Start time of the process since unix epoch in seconds.")
PROCESS_METRIC(received, "process_network_receive_bytes_total", METRIC_COUNTER, read_received_first,
               "Number of bytes received by the process over the network.")
PROCESS_METRIC(transmitted, "process_network_transmit_bytes_total", METRIC_COUNTER,
               read_transmitted, "Number of bytes sent by the process over the network.")

#define REGISTER(var) metrics_register(&var##_family, &var)

static double seconds(clockid_t clock)
{
    struct timespec ts = {0};

    clock_gettime(clock, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

/* It does not change when someone sets the clock later. */
static void set_start_time(void)
{
    double boot_s = seconds(CLOCK_REALTIME) - seconds(CLOCK_BOOTTIME);

    metric_set(&start_time, (double)(int64_t)((boot_s + sample.stat.start_s) * 100) / 100);
}

void process_metrics_register(void)
{
    if (fd_limit.family)
        return;
    REGISTER(fd_limit);
    REGISTER(max_fds);
    REGISTER(virtual_max);
    if (sample_fds()) {
        REGISTER(fd_used);
        REGISTER(open_fds);
    }
    if (sample_network()) {
        REGISTER(received);
        REGISTER(transmitted);
    }
    if (sample_stat()) {
        REGISTER(cpu_seconds);
        REGISTER(resident);
        REGISTER(virtual_memory);
        REGISTER(start_time);
        set_start_time();
    }
}

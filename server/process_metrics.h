/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The metrics of the process that every Prometheus client library has (process_*), and etcd's
 * os_fd_*: memory, processor time, file descriptors, network. They cost nothing until someone
 * looks: each is read from /proc when it is rendered.
 */
#pragma once

#include "base/bytes.h"

/* Once, from the composition root. What /proc does not offer is left out. */
void process_metrics_register(void);

/* ---- for tests ---- */

struct process_stat {
    double cpu_seconds; /* user and system */
    double start_s;     /* since the machine's start */
    uint64_t virtual_bytes;
    uint64_t resident_bytes;
};

/* /proc/self/stat; false: it is not readable as such. */
bool process_stat_parse(const char *text, uint64_t ticks_per_s, uint64_t page_bytes,
                        struct process_stat *ret);
/* InOctets and OutOctets of /proc/self/net/netstat. */
bool process_netstat_parse(const char *text, uint64_t *ret_in_bytes, uint64_t *ret_out_bytes);

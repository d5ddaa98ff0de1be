/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The metrics registry: counters, gauges and histograms in Prometheus' text form 0.0.4. Metrics are
 * static objects registered once at start; updates are relaxed atomics (a few nanoseconds, any
 * thread); reading renders all families sorted by name. A labelled family holds one metric per
 * label set, made beforehand (metrics_register_labelled), so that a label set never appears by
 * accident and the label count is bounded.
 */
#pragma once

#include "base/bytes.h"

enum metric_kind { METRIC_COUNTER, METRIC_GAUGE, METRIC_HISTOGRAM };

enum { METRIC_BUCKETS_MAX = 24 };

struct metric {
    struct metric *next; /* same family */
    const char *labels;  /* as printed between the braces, values escaped: To="1a2b"; "" if none */
    _Atomic uint64_t value; /* counter: a count; gauge: the bits of a double; zeroed is 0 in both */
    _Atomic uint64_t sum_bits;                        /* histogram: the bits of a double */
    _Atomic uint64_t buckets[METRIC_BUCKETS_MAX + 1]; /* not cumulative; the last is +Inf */
    const struct metric_family *family;
    double (*read)(void *arg); /* if set, called when rendering instead of value */
    void *arg;
};

struct metric_family {
    const char *name;
    const char *help;
    enum metric_kind kind;
    const double *bounds; /* histogram: ascending upper bounds */
    size_t n_bounds;
    struct metric *first;
    struct metric_family *next;
};

/*
 * Registers an unlabelled metric. All strings, family and metric must live as long as the process.
 * Registering the same metric again changes nothing; two families of one name are a bug.
 */
void metrics_register(struct metric_family *family, struct metric *metric);
/* Adds a labelled metric to a family (registering the family the first time), after those already
 * there. labels as printed. */
void metrics_register_labelled(struct metric_family *family, struct metric *metric,
                               const char *labels);
void metrics_render(struct buf *out); /* appends; calls read callbacks under the registry's lock */

void metric_add(struct metric *m, uint64_t n);     /* counter */
void metric_set(struct metric *m, double v);       /* gauge */
void metric_gauge_add(struct metric *m, double v); /* gauge, may be negative */
void metric_observe(struct metric *m, double v);   /* histogram */
double metric_value(const struct metric *m);       /* histogram: the number of observations */

extern const double
    metric_bounds_1ms_x2_14[14]; /* 0.001 * 2^n, n < 14: etcd's disk and wal buckets */
extern const double metric_bounds_default[11]; /* Prometheus' default buckets */

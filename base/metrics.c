/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The registry and its rendering.
 *
 * Thread: updates from any thread, relaxed atomics, no lock. Registration and rendering take
 * registry_lock, which guards the list of families and each family's list of metrics; nothing else
 * is locked under it, unless a read callback does so.
 *
 * Invariants: (1) families are sorted by name, and names are unique. (2) A family's metrics stand
 * in the order of registration. (3) A metric belongs to one family for ever; registering it again
 * changes nothing. (4) The buckets of a histogram are not cumulative, so an observation touches one
 * bucket and the sum; count and cumulative buckets come from one pass when rendering and always
 * agree.
 */
#include "base/metrics.h"

#include <pthread.h>
#include <stdatomic.h>

#include "base/check.h"
#include "base/number.h"

const double metric_bounds_1ms_x2_14[14] = {
    0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064,
    0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192,
};
const double metric_bounds_default[11] = {0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10};

static pthread_mutex_t registry_lock = PTHREAD_MUTEX_INITIALIZER;
static struct metric_family *registry_first;

static uint64_t bits_of(double v)
{
    uint64_t bits;
    memcpy(&bits, &v, sizeof(bits));
    return bits;
}

static double double_of(uint64_t bits)
{
    double v;
    memcpy(&v, &bits, sizeof(v));
    return v;
}

/* Links the family into its place (1); nothing if it is there already. */
static void family_link(struct metric_family *family)
{
    struct metric_family **at = &registry_first;
    while (*at && strcmp((*at)->name, family->name) < 0)
        at = &(*at)->next;
    if (*at == family)
        return;
    check(!*at || strcmp((*at)->name, family->name) != 0);
    family->next = *at;
    *at = family;
}

void metrics_register_labelled(struct metric_family *family, struct metric *metric,
                               const char *labels)
{
    check(family->name && family->help && family->n_bounds <= METRIC_BUCKETS_MAX);
    check(family->kind == METRIC_HISTOGRAM || family->n_bounds == 0);
    check(pthread_mutex_lock(&registry_lock) == 0);
    family_link(family);
    check(!metric->family || metric->family == family);
    if (!metric->family) {
        struct metric **at = &family->first;
        while (*at)
            at = &(*at)->next;
        metric->family = family;
        metric->labels = labels;
        metric->next = NULL;
        *at = metric;
    }
    check(pthread_mutex_unlock(&registry_lock) == 0);
}

void metrics_register(struct metric_family *family, struct metric *metric)
{
    check(!family->first || family->first == metric);
    metrics_register_labelled(family, metric, "");
}

void metric_add(struct metric *m, uint64_t n)
{
    atomic_fetch_add_explicit(&m->value, n, memory_order_relaxed);
}

void metric_set(struct metric *m, double v)
{
    atomic_store_explicit(&m->value, bits_of(v), memory_order_relaxed);
}

static void double_add(_Atomic uint64_t *bits, double v)
{
    uint64_t before = atomic_load_explicit(bits, memory_order_relaxed);
    while (!atomic_compare_exchange_weak_explicit(bits, &before, bits_of(double_of(before) + v),
                                                  memory_order_relaxed, memory_order_relaxed))
        ;
}

void metric_gauge_add(struct metric *m, double v)
{
    double_add(&m->value, v);
}

void metric_observe(struct metric *m, double v)
{
    const struct metric_family *family = m->family;
    check(family && family->kind == METRIC_HISTOGRAM);
    size_t i = 0;
    /* Upper bounds are inclusive; a NaN is below none of them and ends in the last bucket. */
    while (i < family->n_bounds && !(v <= family->bounds[i]))
        i++;
    atomic_fetch_add_explicit(&m->buckets[i], 1, memory_order_relaxed);
    double_add(&m->sum_bits, v);
}

double metric_value(const struct metric *m)
{
    if (m->read)
        return m->read(m->arg);
    if (m->family && m->family->kind == METRIC_HISTOGRAM) {
        uint64_t count = 0;
        for (size_t i = 0; i <= m->family->n_bounds; i++)
            count += atomic_load_explicit(&m->buckets[i], memory_order_relaxed);
        return (double)count;
    }
    uint64_t value = atomic_load_explicit(&m->value, memory_order_relaxed);
    return m->family && m->family->kind == METRIC_GAUGE ? double_of(value) : (double)value;
}

static void render_name(struct buf *out, const struct metric *m, const char *suffix)
{
    buf_append_str(out, m->family->name);
    buf_append_str(out, suffix);
    if (m->labels[0])
        buf_printf(out, "{%s}", m->labels);
    buf_append_u8(out, ' ');
}

static void render_sample(struct buf *out, const struct metric *m, const char *suffix, double v)
{
    render_name(out, m, suffix);
    number_append_g(out, v);
    buf_append_u8(out, '\n');
}

static void render_histogram(struct buf *out, const struct metric *m)
{
    const struct metric_family *family = m->family;
    uint64_t count = 0;
    for (size_t i = 0; i <= family->n_bounds; i++) {
        count += atomic_load_explicit(&m->buckets[i], memory_order_relaxed);
        buf_printf(out, "%s_bucket{%s%sle=\"", family->name, m->labels, m->labels[0] ? "," : "");
        if (i < family->n_bounds)
            number_append_g(out, family->bounds[i]);
        else
            buf_append_str(out, "+Inf");
        buf_append_str(out, "\"} ");
        number_append_g(out, (double)count);
        buf_append_u8(out, '\n');
    }
    render_sample(out, m, "_sum",
                  double_of(atomic_load_explicit(&m->sum_bits, memory_order_relaxed)));
    render_sample(out, m, "_count", (double)count);
}

static void render_help(struct buf *out, const char *help)
{
    for (const char *p = help; *p; p++) {
        if (*p == '\\')
            buf_append_str(out, "\\\\");
        else if (*p == '\n')
            buf_append_str(out, "\\n");
        else
            buf_append_u8(out, (uint8_t)*p);
    }
}

static void render_family(struct buf *out, const struct metric_family *family)
{
    static const char *const kinds[] = {"counter", "gauge", "histogram"};
    buf_printf(out, "# HELP %s ", family->name);
    render_help(out, family->help);
    buf_printf(out, "\n# TYPE %s %s\n", family->name, kinds[family->kind]);
    for (const struct metric *m = family->first; m; m = m->next) {
        if (family->kind == METRIC_HISTOGRAM)
            render_histogram(out, m);
        else
            render_sample(out, m, "", metric_value(m));
    }
}

void metrics_render(struct buf *out)
{
    check(pthread_mutex_lock(&registry_lock) == 0);
    for (const struct metric_family *family = registry_first; family; family = family->next)
        render_family(out, family);
    check(pthread_mutex_unlock(&registry_lock) == 0);
}

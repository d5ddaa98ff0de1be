/* SPDX-License-Identifier: Apache-2.0 */
/* The rendered text, byte for byte, and the arithmetic of counters, gauges and histograms, also
 * from several threads. */
#include "base/metrics.h"

#include <math.h>
#include <pthread.h>
#include <setjmp.h>

#include <cmocka.h>

#include "base/check.h"

enum { THREADS = 4, ADDITIONS = 50000 };

static const double bounds[] = {0.5, 1, 2.5};

static struct metric_family family_b = {
    .name = "b_total", .help = "Counts \\ and\nlines.", .kind = METRIC_COUNTER};
static struct metric_family family_a = {.name = "a", .help = "A gauge.", .kind = METRIC_GAUGE};
static struct metric_family family_c = {.name = "c_seconds",
                                        .help = "Times.",
                                        .kind = METRIC_HISTOGRAM,
                                        .bounds = bounds,
                                        .n_bounds = 3};
static struct metric_family family_d = {.name = "aa", .help = "Read.", .kind = METRIC_GAUGE};
static struct metric b_to_2, b_to_1, a, c_get, c_put, d;

static double read_number(void *arg)
{
    return *(int *)arg;
}

static void test_render(void **state)
{
    static int number = 42;
    d = (struct metric){.read = read_number, .arg = &number};
    metrics_register_labelled(&family_c, &c_get, "type=\"get\"");
    metrics_register_labelled(&family_b, &b_to_2, "To=\"2\"");
    metrics_register_labelled(&family_b, &b_to_1, "To=\"1\"");
    metrics_register(&family_d, &d);
    metrics_register(&family_a, &a);
    metrics_register(&family_a, &a);
    metric_add(&b_to_2, 12345678);
    metric_set(&a, 1.5);
    metric_gauge_add(&a, -2);
    metric_observe(&c_get, 0.25);
    metric_observe(&c_get, 0.5);
    metric_observe(&c_get, 0.75);
    metric_observe(&c_get, 3);
    _cleanup_(buf_deinit) struct buf out = BUF_NULL;
    metrics_render(&out);
    assert_string_equal(buf_cstr(&out), "# HELP a A gauge.\n"
                                        "# TYPE a gauge\n"
                                        "a -0.5\n"
                                        "# HELP aa Read.\n"
                                        "# TYPE aa gauge\n"
                                        "aa 42\n"
                                        "# HELP b_total Counts \\\\ and\\nlines.\n"
                                        "# TYPE b_total counter\n"
                                        "b_total{To=\"2\"} 1.2345678e+07\n"
                                        "b_total{To=\"1\"} 0\n"
                                        "# HELP c_seconds Times.\n"
                                        "# TYPE c_seconds histogram\n"
                                        "c_seconds_bucket{type=\"get\",le=\"0.5\"} 2\n"
                                        "c_seconds_bucket{type=\"get\",le=\"1\"} 3\n"
                                        "c_seconds_bucket{type=\"get\",le=\"2.5\"} 3\n"
                                        "c_seconds_bucket{type=\"get\",le=\"+Inf\"} 4\n"
                                        "c_seconds_sum{type=\"get\"} 4.5\n"
                                        "c_seconds_count{type=\"get\"} 4\n");
}

static void test_values(void **state)
{
    metrics_register_labelled(&family_c, &c_put, "type=\"put\"");
    assert_true(metric_value(&c_put) == 0);
    metric_observe(&c_put, NAN);
    metric_observe(&c_put, INFINITY);
    assert_true(metric_value(&c_put) == 2);
    assert_int_equal(c_put.buckets[3], 2);
    assert_true(metric_value(&b_to_2) == 12345678);
    assert_true(metric_value(&a) == -0.5);
    assert_true(metric_value(&d) == 42);
}

static void test_unlabelled_histogram(void **state)
{
    static struct metric_family family = {.name = "z",
                                          .help = "Z.",
                                          .kind = METRIC_HISTOGRAM,
                                          .bounds = metric_bounds_1ms_x2_14,
                                          .n_bounds = 14};
    static struct metric m;
    metrics_register(&family, &m);
    metric_observe(&m, 0.001);
    metric_observe(&m, 8.192);
    metric_observe(&m, 8.193);
    _cleanup_(buf_deinit) struct buf out = BUF_NULL;
    metrics_render(&out);
    const char *text = buf_cstr(&out);
    assert_non_null(strstr(text, "\nz_bucket{le=\"0.001\"} 1\nz_bucket{le=\"0.002\"} 1\n"));
    assert_non_null(strstr(text, "\nz_bucket{le=\"8.192\"} 2\nz_bucket{le=\"+Inf\"} 3\n"));
    assert_non_null(strstr(text, "\nz_sum 16.386\nz_count 3\n"));
}

static void *add_many(void *arg)
{
    struct metric *metrics = arg;
    for (int i = 0; i < ADDITIONS; i++) {
        metric_add(&metrics[0], 1);
        metric_gauge_add(&metrics[1], 1);
        metric_observe(&metrics[2], 1);
    }
    return NULL;
}

static void test_threads(void **state)
{
    static struct metric_family families[] = {
        {.name = "t0", .help = "", .kind = METRIC_COUNTER},
        {.name = "t1", .help = "", .kind = METRIC_GAUGE},
        {.name = "t2", .help = "", .kind = METRIC_HISTOGRAM, .bounds = bounds, .n_bounds = 3},
    };
    static struct metric metrics[3];
    pthread_t threads[THREADS];
    for (int i = 0; i < 3; i++)
        metrics_register(&families[i], &metrics[i]);
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, add_many, metrics), 0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    for (int i = 0; i < 3; i++)
        assert_true(metric_value(&metrics[i]) == THREADS * ADDITIONS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_render),
        cmocka_unit_test(test_values),
        cmocka_unit_test(test_unlabelled_histogram),
        cmocka_unit_test(test_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

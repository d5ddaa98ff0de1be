/* SPDX-License-Identifier: Apache-2.0 */
/* Number texts, the expected ones printed by Go's strconv; and random numbers must read back as
 * themselves. */
#include "base/number.h"

#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/rng.h"

static const struct {
    double v;
    const char *g, *f;
} cases[] = {
    {0, "0", "0"},
    {-0.0, "-0", "-0"},
    {1, "1", "1"},
    {-1, "-1", "-1"},
    {0.1, "0.1", "0.1"},
    {1.5, "1.5", "1.5"},
    {100, "100", "100"},
    {100000, "100000", "100000"},
    {999999, "999999", "999999"},
    {1e6, "1e+06", "1000000"},
    {1234567, "1.234567e+06", "1234567"},
    {12345678, "1.2345678e+07", "12345678"},
    {123456.789, "123456.789", "123456.789"},
    {1e20, "1e+20", "100000000000000000000"},
    {1e21, "1e+21", "1000000000000000000000"},
    {1e23, "1e+23", "100000000000000000000000"},
    {8.41e21, "8.41e+21", "8410000000000000000000"},
    {123456789012345680, "1.2345678901234568e+17", "123456789012345680"},
    {9007199254740992, "9.007199254740992e+15", "9007199254740992"},
    {0.001, "0.001", "0.001"},
    {1e-4, "0.0001", "0.0001"},
    {1e-5, "1e-05", "0.00001"},
    {0.00012345, "0.00012345", "0.00012345"},
    {2.5e-8, "2.5e-08", "0.000000025"},
    {1.0 / 3, "0.3333333333333333", "0.3333333333333333"},
    {2.0 / 3e9, "6.666666666666666e-10", "0.0000000006666666666666666"},
    {0x1p-44, "5.684341886080802e-14", "0.00000000000005684341886080802"},
    {4.35, "4.35", "4.35"},
    {0.3, "0.3", "0.3"},
    {0.1 + 0.2, "0.30000000000000004", "0.30000000000000004"},
    {INFINITY, "+Inf", "+Inf"},
    {-INFINITY, "-Inf", "-Inf"},
    {NAN, "NaN", "NaN"},
};

static void test_cases(void **state)
{
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        _cleanup_(buf_deinit) struct buf g = BUF_NULL, f = BUF_NULL;
        number_append_g(&g, cases[i].v);
        number_append_f(&f, cases[i].v);
        assert_string_equal(buf_cstr(&g), cases[i].g);
        assert_string_equal(buf_cstr(&f), cases[i].f);
    }
}

static void test_extremes(void **state)
{
    _cleanup_(buf_deinit) struct buf b = BUF_NULL;
    number_append_g(&b, 5e-324);
    buf_append_u8(&b, ' ');
    number_append_g(&b, DBL_MIN);
    buf_append_u8(&b, ' ');
    number_append_g(&b, DBL_MAX);
    assert_string_equal(buf_cstr(&b), "5e-324 2.2250738585072014e-308 1.7976931348623157e+308");
}

static void test_reads_back(void **state)
{
    struct rng r;
    rng_init(&r, 9);
    for (int i = 0; i < 20000; i++) {
        _cleanup_(buf_deinit) struct buf g = BUF_NULL, f = BUF_NULL;
        uint64_t bits = rng_next(&r);
        double v;
        memcpy(&v, &bits, sizeof(v));
        if (!isfinite(v))
            continue;
        number_append_g(&g, v);
        number_append_f(&f, v);
        assert_true(strtod(buf_cstr(&g), NULL) == v);
        assert_true(strtod(buf_cstr(&f), NULL) == v);
        assert_null(strchr(buf_cstr(&f), 'e'));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cases),
        cmocka_unit_test(test_extremes),
        cmocka_unit_test(test_reads_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The command line: which seeds, and how they are run (see README.md).
 *
 *   sim --seed N [--trace] [--logs]   one run
 *   sim --seeds A..B                  those
 *   sim --file FILE                   those in it, one a line; what follows is a remark
 *   sim --seconds S                   fresh ones for so long, from the time; the first is printed
 *   sim --fresh                       the same for CAIRN_SIM_SECONDS (300)
 *
 *   --jobs J                          so many at once
 *   --twice                           each seed twice: both runs must be the same
 *   --failures N                      no more after so many failures
 *   --stats                           what happened, and what was checked, in numbers
 *
 * Thread: the only one.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/mem.h"
#include "tests/sim/counters.h"
#include "tests/sim/runner.h"

enum { SECONDS_DEFAULT = 300 };

struct settings {
    struct runner_settings run;
    uint64_t first, last;
    bool single;
    bool stats;
    const char *file;
    uint64_t seconds;
};

struct seeds {
    uint64_t *items;
    size_t len;
};

static void usage(void)
{
    fprintf(stderr, "usage: sim --seed N [--trace] [--logs] | --seeds A..B | --file FILE | "
                    "--seconds S | --fresh\n"
                    "           [--jobs J] [--twice] [--failures N] [--stats]\n");
    exit(2);
}

static uint64_t number(const char *text, char **end)
{
    errno = 0;
    uint64_t n = strtoull(text, end, 10);

    if (errno || *end == text)
        usage();
    return n;
}

static void parse_range(struct settings *s, const char *text)
{
    char *end;

    s->first = number(text, &end);
    if (strncmp(end, "..", 2) != 0)
        usage();
    s->last = number(end + 2, &end);
}

static uint64_t seconds_of_environment(void)
{
    const char *text = getenv("CAIRN_SIM_SECONDS");
    char *end;

    return text && *text ? number(text, &end) : SECONDS_DEFAULT;
}

static bool parse_flag(struct settings *s, const char *arg)
{
    if (strcmp(arg, "--trace") == 0)
        s->run.world.trace = true;
    else if (strcmp(arg, "--logs") == 0)
        s->run.world.logs = true;
    else if (strcmp(arg, "--stats") == 0)
        s->stats = true;
    else if (strcmp(arg, "--twice") == 0)
        s->run.twice = true;
    else if (strcmp(arg, "--fresh") == 0)
        s->seconds = seconds_of_environment();
    else
        return false;
    return true;
}

static void parse_value(struct settings *s, const char *arg, const char *value)
{
    char *end;

    if (strcmp(arg, "--seed") == 0) {
        s->single = true;
        s->run.world.seed = number(value, &end);
    } else if (strcmp(arg, "--seeds") == 0) {
        parse_range(s, value);
    } else if (strcmp(arg, "--file") == 0) {
        s->file = value;
    } else if (strcmp(arg, "--seconds") == 0) {
        s->seconds = number(value, &end);
    } else if (strcmp(arg, "--jobs") == 0) {
        s->run.jobs = (unsigned)number(value, &end);
    } else if (strcmp(arg, "--failures") == 0) {
        s->run.stop_after = (unsigned)number(value, &end);
    } else {
        usage();
    }
}

static void parse(struct settings *s, int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        if (parse_flag(s, argv[i]))
            continue;
        parse_value(s, argv[i], i + 1 < argc ? argv[i + 1] : "");
        i++;
    }
    if (s->run.jobs == 0 || s->run.jobs > RUNNER_JOBS_MAX)
        s->run.jobs = 1;
}

/* ---- which seeds ---- */

static uint64_t next_in_range(void *arg)
{
    return (*(uint64_t *)arg)++;
}

static uint64_t next_in_list(void *arg)
{
    return *(*(uint64_t **)arg)++;
}

static struct seeds read_file(const char *path)
{
    struct seeds seeds = {0};
    char line[256];
    FILE *f = fopen(path, "r");

    if (!f) {
        fprintf(stderr, "sim: %s: %s\n", path, strerror(errno));
        exit(2);
    }
    while (fgets(line, sizeof(line), f)) {
        char *end;
        uint64_t seed = strtoull(line, &end, 10);
        if (end == line)
            continue;
        seeds.items = mem_realloc(seeds.items, (seeds.len + 1) * sizeof(*seeds.items));
        seeds.items[seeds.len++] = seed;
    }
    fclose(f);
    return seeds;
}

static void run_fresh(const struct settings *s)
{
    struct timespec now;

    timespec_get(&now, TIME_UTC); /* clock_gettime() is the simulated one */
    uint64_t at = (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
    printf("seeds from %" PRIu64 ", for %" PRIu64 " s\n", at, s->seconds);
    runner_run_until(&s->run, next_in_range, &at, now.tv_sec + (time_t)s->seconds);
}

static void run_many(const struct settings *s)
{
    if (s->file) {
        struct seeds seeds = read_file(s->file);
        uint64_t *at = seeds.items;
        runner_run(&s->run, next_in_list, &at, seeds.len);
        free(seeds.items);
    } else if (s->seconds > 0) {
        run_fresh(s);
    } else {
        uint64_t at = s->first;
        runner_run(&s->run, next_in_range, &at, s->last - s->first + 1);
    }
}

int main(int argc, char **argv)
{
    struct settings s = {.first = 1};
    struct timespec begin, end;

    parse(&s, argc, argv);
    counters_init();
    if (s.single) {
        runner_run_single(&s.run);
        return 0;
    }
    if (!s.file && s.seconds == 0 && s.last < s.first)
        usage();
    timespec_get(&begin, TIME_UTC);
    run_many(&s);
    timespec_get(&end, TIME_UTC);
    if (s.stats)
        counters_print();
    printf("%.0f seeds an hour\n",
           (double)runner_done() * 3600 /
               ((double)(end.tv_sec - begin.tv_sec) + (double)(end.tv_nsec - begin.tv_nsec) / 1e9));
    return !runner_report();
}

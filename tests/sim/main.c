/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The runner.
 *
 *   sim --seed N [--trace] [--logs]   one run
 *   sim --seeds A..B                  those
 *   sim --file FILE                   those in it, one a line; what follows # is a remark
 *   sim --minutes M                   fresh ones, from the time; they are printed
 *   --jobs J                          so many at once
 *   --twice                           each seed twice: both runs must be the same
 *
 *   --failures N                      no more after so many failures
 *
 * Each run is made in a process of its own: production code has some state that belongs to a
 * process (metrics), what a killed member had in memory is not given back, and a crash of the
 * simulator itself is an answer about one seed.
 *
 * Thread: the only one.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/check.h"
#include "base/mem.h"
#include "tests/sim/world.h"

enum { JOBS_MAX = 64 };

struct settings {
    struct world_settings world;
    uint64_t first, last;
    bool single;
    bool twice;
    const char *file;
    double minutes;
    unsigned jobs;
    unsigned stop_after; /* failures */
};

struct seeds {
    uint64_t *items;
    size_t len;
};

struct job {
    pid_t pid; /* 0: none */
    uint64_t seed;
};

static struct {
    struct job jobs[JOBS_MAX];
    unsigned running;
    uint64_t done, failed;
    time_t end; /* of --minutes */
} runner;

static void usage(void)
{
    fprintf(stderr, "usage: sim --seed N [--trace] [--logs] | --seeds A..B | --file FILE | "
                    "--minutes M  [--jobs J]\n");
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

static void parse(struct settings *s, int argc, char **argv)
{
    char *end;

    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";
        if (strcmp(argv[i], "--trace") == 0) {
            s->world.trace = true;
            continue;
        }
        if (strcmp(argv[i], "--logs") == 0) {
            s->world.logs = true;
            continue;
        }
        if (strcmp(argv[i], "--twice") == 0) {
            s->twice = true;
            continue;
        }
        if (strcmp(argv[i], "--seed") == 0) {
            s->single = true;
            s->world.seed = number(value, &end);
        } else if (strcmp(argv[i], "--seeds") == 0) {
            parse_range(s, value);
        } else if (strcmp(argv[i], "--file") == 0) {
            s->file = value;
        } else if (strcmp(argv[i], "--minutes") == 0) {
            s->minutes = strtod(value, &end);
        } else if (strcmp(argv[i], "--jobs") == 0) {
            s->jobs = (unsigned)number(value, &end);
        } else if (strcmp(argv[i], "--failures") == 0) {
            s->stop_after = (unsigned)number(value, &end);
        } else {
            usage();
        }
        i++;
    }
    if (s->jobs == 0 || s->jobs > JOBS_MAX)
        s->jobs = 1;
}

/* ---- one run ---- */

static void run_one(const struct settings *s, uint64_t seed)
{
    struct world_settings w = s->world;

    w.seed = seed;
    world_run(&w);
}

/* The digest of a run in a process of its own. */
static uint64_t digest_of(const struct settings *s, uint64_t seed)
{
    uint64_t digest = 0;
    int fds[2];

    check(pipe(fds) == 0);
    fflush(stdout);
    pid_t pid = fork();
    check(pid >= 0);
    if (pid == 0) {
        run_one(s, seed);
        check(write(fds[1], &world.digest, sizeof(world.digest)) == sizeof(world.digest));
        _exit(0);
    }
    close(fds[1]);
    bool done = read(fds[0], &digest, sizeof(digest)) == sizeof(digest);
    close(fds[0]);
    check(waitpid(pid, NULL, 0) == pid);
    if (!done)
        _exit(TRACE_FAILED);
    return digest;
}

static void run_checked(const struct settings *s, uint64_t seed)
{
    uint64_t digest = s->twice ? digest_of(s, seed) : 0;

    run_one(s, seed);
    if (s->twice)
        require(world.digest == digest, "a seed is one run",
                "digest %016" PRIx64 " and %016" PRIx64, digest, world.digest);
}

static int run_single(const struct settings *s)
{
    run_checked(s, s->world.seed);
    printf("ok seed %" PRIu64 ": %u members, %" PRIu64 " events, %" PRIu64 ".%03" PRIu64
           " s, digest %016" PRIx64 "\n",
           s->world.seed, world.o.n_members, world.events, world.virtual_ns / SECOND,
           world.virtual_ns % SECOND / MILLISECOND, world.digest);
    return 0;
}

/* ---- children ---- */

static void start(const struct settings *s, struct job *job, uint64_t seed)
{
    fflush(stdout);
    job->seed = seed;
    job->pid = fork();
    check(job->pid >= 0);
    if (job->pid != 0)
        return;
    run_checked(s, seed);
    fflush(stdout);
    _exit(0);
}

static struct job *job_of(pid_t pid)
{
    for (unsigned i = 0; i < JOBS_MAX; i++)
        if (runner.jobs[i].pid == pid)
            return &runner.jobs[i];
    return NULL;
}

/* Waits for the end of one. */
static void reap(void)
{
    int status;
    pid_t pid = wait(&status);
    struct job *job = job_of(pid);

    check(pid > 0 && job);
    job->pid = 0;
    runner.running--;
    runner.done++;
    if (status == 0)
        return;
    runner.failed++;
    if (!WIFEXITED(status))
        printf("FAILED seed %" PRIu64 ": the simulator was ended by signal %d\n", job->seed,
               WTERMSIG(status));
}

static bool stopped(const struct settings *s)
{
    return (s->stop_after && runner.failed >= s->stop_after) ||
           (runner.end && time(NULL) >= runner.end);
}

static void run_list(const struct settings *s, uint64_t (*next)(void *arg), void *arg, uint64_t n)
{
    for (; n > 0 && !stopped(s); n--) {
        if (runner.running == s->jobs)
            reap();
        start(s, job_of(0), next(arg));
        runner.running++;
    }
    while (runner.running > 0)
        reap();
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

static void run_many(struct settings *s)
{
    if (s->file) {
        struct seeds seeds = read_file(s->file);
        uint64_t *at = seeds.items;
        run_list(s, next_in_list, &at, seeds.len);
        free(seeds.items);
    } else if (s->minutes > 0) {
        struct timespec now;
        clock_gettime(CLOCK_REALTIME, &now);
        runner.end = now.tv_sec + (time_t)(s->minutes * 60);
        uint64_t at = (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
        printf("seeds from %" PRIu64 "\n", at);
        run_list(s, next_in_range, &at, UINT64_MAX);
    } else {
        uint64_t at = s->first;
        run_list(s, next_in_range, &at, s->last - s->first + 1);
    }
}

int main(int argc, char **argv)
{
    struct settings s = {.first = 1};

    parse(&s, argc, argv);
    if (s.single)
        return run_single(&s);
    if (!s.file && s.minutes <= 0 && s.last < s.first)
        usage();
    run_many(&s);
    printf("%" PRIu64 " seeds, %" PRIu64 " failed\n", runner.done, runner.failed);
    return runner.failed > 0;
}

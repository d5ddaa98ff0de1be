/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The runner (see runner.h): a parent with a bounded number of children.
 *
 * Thread: the only one.
 */
#include "tests/sim/runner.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/check.h"

enum { LINE_BYTES = 400 };

struct job {
    pid_t pid; /* 0: none */
    uint64_t seed;
};

static struct {
    struct job jobs[RUNNER_JOBS_MAX];
    unsigned running;
    uint64_t done, failed;
    time_t end; /* 0: none */
    struct failure {
        uint64_t seed;
        char verdict[TRACE_VERDICT_BYTES];
    } failures[RUNNER_FAILURES_MAX];       /* the first ones */
    char (*verdicts)[TRACE_VERDICT_BYTES]; /* one a job; children write it */
} runner;

uint64_t runner_done(void)
{
    return runner.done;
}

/* ---- one run ---- */

static void run_one(const struct runner_settings *s, uint64_t seed)
{
    struct world_settings w = s->world;

    w.seed = seed;
    world_run(&w);
}

static void print_ok(uint64_t seed)
{
    printf("ok seed %" PRIu64 ": %u members, %" PRIu64 " events, %" PRIu64 ".%03" PRIu64
           " s, digest %016" PRIx64 "\n",
           seed, world.o.n_members, world.events, world.virtual_ns / SECOND,
           world.virtual_ns % SECOND / MILLISECOND, world.digest);
}

static noreturn void exec_single(uint64_t seed, int out)
{
    char text[24];

    snprintf(text, sizeof(text), "%" PRIu64, seed);
    check(dup2(out, STDOUT_FILENO) >= 0);
    execl("/proc/self/exe", "sim", "--seed", text, (char *)NULL);
    _exit(127);
}

/* What another process says of the seed: its addresses are others, and nothing may depend on
 * them. */
static void digest_of(uint64_t seed, char *ret, size_t bytes)
{
    char line[LINE_BYTES];
    int fds[2];

    ret[0] = '\0';
    check(pipe(fds) == 0);
    pid_t pid = fork();
    check(pid >= 0);
    if (pid == 0)
        exec_single(seed, fds[1]);
    close(fds[1]);
    FILE *f = fdopen(fds[0], "r");
    check(f);
    while (fgets(line, sizeof(line), f)) {
        const char *digest = strstr(line, ", digest ");
        if (digest)
            snprintf(ret, bytes, "%.16s", digest + strlen(", digest "));
    }
    fclose(f);
    check(waitpid(pid, NULL, 0) == pid);
}

static void run_checked(const struct runner_settings *s, uint64_t seed)
{
    char other[17], own[17];

    run_one(s, seed);
    if (!s->twice)
        return;
    digest_of(seed, other, sizeof(other));
    snprintf(own, sizeof(own), "%016" PRIx64, world.digest);
    require(strcmp(own, other) == 0, "a seed is one run", "digest %s, another process has %s", own,
            other);
}

void runner_run_single(const struct runner_settings *s)
{
    run_checked(s, s->world.seed);
    print_ok(s->world.seed);
}

/* ---- children ---- */

/* SIGXCPU at the soft limit, so that a run without an end is told from one that was killed. */
static void limit_time(void)
{
    struct rlimit limit = {RUNNER_SEED_SECONDS_MAX, RUNNER_SEED_SECONDS_MAX + 1};

    check(setrlimit(RLIMIT_CPU, &limit) == 0);
}

static char *verdict_of(const struct job *job)
{
    return runner.verdicts[job - runner.jobs];
}

static void start(const struct runner_settings *s, struct job *job, uint64_t seed)
{
    fflush(stdout);
    job->seed = seed;
    verdict_of(job)[0] = '\0';
    job->pid = fork();
    check(job->pid >= 0);
    if (job->pid != 0)
        return;
    limit_time();
    trace_verdict_to(verdict_of(job));
    run_checked(s, seed);
    fflush(stdout);
    _exit(0);
}

static struct job *job_of(pid_t pid)
{
    for (unsigned i = 0; i < RUNNER_JOBS_MAX; i++)
        if (runner.jobs[i].pid == pid)
            return &runner.jobs[i];
    return NULL;
}

/* A child that has found something has said what; of another one only its end is known. */
static void failed(const struct job *job, int status)
{
    char *verdict = verdict_of(job);

    if (!WIFEXITED(status) || WEXITSTATUS(status) != TRACE_FAILED) {
        snprintf(verdict, TRACE_VERDICT_BYTES,
                 "FAILED seed %" PRIu64 ": the simulator ended by %s %d%s%s", job->seed,
                 WIFEXITED(status) ? "exit status" : "signal",
                 WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status),
                 WIFSIGNALED(status) ? ": " : "",
                 WIFSIGNALED(status) ? strsignal(WTERMSIG(status)) : "");
        printf("%s\n" TRACE_AGAIN, verdict, job->seed);
    }
    if (runner.failed < RUNNER_FAILURES_MAX) {
        struct failure *f = &runner.failures[runner.failed];
        f->seed = job->seed;
        memcpy(f->verdict, verdict, sizeof(f->verdict));
    }
    runner.failed++;
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
    if (status != 0)
        failed(job, status);
}

static bool stopped(const struct runner_settings *s)
{
    return (s->stop_after && runner.failed >= s->stop_after) ||
           (runner.end && time(NULL) >= runner.end);
}

static void verdicts_init(void)
{
    size_t bytes = RUNNER_JOBS_MAX * sizeof(*runner.verdicts);

    runner.verdicts = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    check(runner.verdicts != MAP_FAILED);
}

void runner_run(const struct runner_settings *s, uint64_t (*next)(void *arg), void *arg, uint64_t n)
{
    verdicts_init();
    for (; n > 0 && !stopped(s); n--) {
        if (runner.running == s->jobs)
            reap();
        start(s, job_of(0), next(arg));
        runner.running++;
    }
    while (runner.running > 0)
        reap();
}

void runner_run_until(const struct runner_settings *s, uint64_t (*next)(void *arg), void *arg,
                      time_t end)
{
    runner.end = end;
    runner_run(s, next, arg, UINT64_MAX);
}

bool runner_report(void)
{
    size_t n = runner.failed < RUNNER_FAILURES_MAX ? runner.failed : RUNNER_FAILURES_MAX;

    for (size_t i = 0; i < n; i++)
        printf("%s\n", runner.failures[i].verdict);
    printf("%" PRIu64 " seeds, %" PRIu64 " failed", runner.done, runner.failed);
    for (size_t i = 0; i < n; i++)
        printf("%s%" PRIu64, i == 0 ? ": " : " ", runner.failures[i].seed);
    printf("%s\n", runner.failed > n ? " and more" : "");
    return runner.failed == 0 && runner.done > 0;
}

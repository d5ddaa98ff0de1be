/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The registry of failpoints and what happens when one is hit. Built only with -Dfailpoints=true.
 *
 * Thread: any. The list of points is made by failpoint_start() and never changes afterwards. Each
 * point's lock guards its chain, text and count; it is a leaf, and not held while a term acts.
 * rng_lock guards the generator of the percentages and is taken under a point's lock.
 *
 * Invariants: (1) one point per name, however many places use it. (2) armed is true exactly while
 * the point has a chain; it is read without the lock, so that a point that is off costs one load.
 */
#include "base/failpoint.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "base/check.h"
#include "base/err.h"
#include "base/failpoint_http.h"
#include "base/failpoint_term.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/rng.h"

struct failpoint {
    struct failpoint *next; /* sorted by name */
    const char *name;
    atomic_bool armed;
    pthread_mutex_t lock;
    char *text; /* the terms as given; NULL while disabled */
    struct failpoint_chain chain;
    uint64_t count;
};

/* The section's bounds, from the linker; absent in a program without failpoints. */
extern struct failpoint_site __start_failpoint_sites[] __attribute__((weak));
extern struct failpoint_site __stop_failpoint_sites[] __attribute__((weak));

pthread_mutex_t failpoint_panic_lock = PTHREAD_MUTEX_INITIALIZER;

static struct failpoint *points;
static pthread_mutex_t rng_lock = PTHREAD_MUTEX_INITIALIZER;
static struct rng point_rng;
static bool http_started;

static const struct failpoint_term *point_next(struct failpoint *point)
{
    check(pthread_mutex_lock(&rng_lock) == 0);
    const struct failpoint_term *term = failpoint_chain_next(&point->chain, &point_rng);
    check(pthread_mutex_unlock(&rng_lock) == 0);
    return term;
}

static void point_sleep(uint64_t ns)
{
    struct timespec left = {(time_t)(ns / 1000000000), (long)(ns % 1000000000)};
    while (nanosleep(&left, &left) < 0 && errno == EINTR)
        ;
}

_Noreturn static void point_panic(const struct failpoint *point)
{
    check(pthread_mutex_lock(&failpoint_panic_lock) == 0);
    dprintf(STDERR_FILENO, "failpoint panic: %s\n", point->name);
    abort();
}

bool failpoint_hit(const struct failpoint_site *site)
{
    struct failpoint *point = site->point;
    struct failpoint_term term = {.action = FAILPOINT_OFF};
    if (!point || !atomic_load_explicit(&point->armed, memory_order_acquire))
        return false;
    check(pthread_mutex_lock(&point->lock) == 0);
    const struct failpoint_term *next = point->text ? point_next(point) : NULL;
    if (next) {
        term = *next;
        point->count++;
    }
    check(pthread_mutex_unlock(&point->lock) == 0);
    switch (term.action) {
    case FAILPOINT_OFF: break;
    case FAILPOINT_RETURN: return true;
    case FAILPOINT_SLEEP: point_sleep(term.sleep_ns); break;
    case FAILPOINT_PANIC: point_panic(point);
    case FAILPOINT_BREAK: raise(SIGTRAP); break;
    case FAILPOINT_PRINT:
        printf("failpoint print: %s\n", point->name);
        fflush(stdout);
        break;
    }
    return false;
}

static struct failpoint *point_find(const char *name)
{
    const char *slash = strrchr(name, '/');
    if (slash)
        name = slash + 1;
    for (struct failpoint *point = points; point; point = point->next)
        if (strcmp(point->name, name) == 0)
            return point;
    return NULL;
}

enum failpoint_result failpoint_enable(const char *name, const char *terms)
{
    struct failpoint_chain chain;
    struct failpoint *point = point_find(name);
    if (!point)
        return FAILPOINT_UNKNOWN;
    if (!failpoint_chain_parse(terms, &chain))
        return FAILPOINT_MALFORMED;
    check(pthread_mutex_lock(&point->lock) == 0);
    free(point->text);
    point->text = mem_strdup(terms);
    point->chain = chain;
    point->count = 0;
    atomic_store_explicit(&point->armed, true, memory_order_release);
    check(pthread_mutex_unlock(&point->lock) == 0);
    return FAILPOINT_DONE;
}

enum failpoint_result failpoint_enable_many(const char *text)
{
    _cleanup_(mem_freep) char *copy = mem_strdup(text);
    char *save = NULL;
    for (char *name = strtok_r(copy, ";", &save); name; name = strtok_r(NULL, ";", &save)) {
        char *equals = strchr(name, '=');
        if (!equals || strchr(equals + 1, '='))
            return FAILPOINT_MALFORMED;
        *equals = '\0';
        enum failpoint_result result = failpoint_enable(name, equals + 1);
        if (result != FAILPOINT_DONE)
            return result;
    }
    return FAILPOINT_DONE;
}

enum failpoint_result failpoint_disable(const char *name)
{
    struct failpoint *point = point_find(name);
    if (!point)
        return FAILPOINT_UNKNOWN;
    check(pthread_mutex_lock(&point->lock) == 0);
    bool was_armed = point->text != NULL;
    atomic_store_explicit(&point->armed, false, memory_order_release);
    free(point->text);
    point->text = NULL;
    check(pthread_mutex_unlock(&point->lock) == 0);
    return was_armed ? FAILPOINT_DONE : FAILPOINT_DISABLED;
}

enum failpoint_result failpoint_status(const char *name, struct buf *out, uint64_t *ret_count)
{
    struct failpoint *point = point_find(name);
    if (!point)
        return FAILPOINT_UNKNOWN;
    check(pthread_mutex_lock(&point->lock) == 0);
    bool armed = point->text != NULL;
    if (armed) {
        buf_append_str(out, point->text);
        *ret_count = point->count;
    }
    check(pthread_mutex_unlock(&point->lock) == 0);
    return armed ? FAILPOINT_DONE : FAILPOINT_DISABLED;
}

void failpoint_list(struct buf *out)
{
    for (struct failpoint *point = points; point; point = point->next) {
        uint64_t count;
        buf_printf(out, "%s=", point->name);
        failpoint_status(point->name, out, &count);
        buf_append_u8(out, '\n');
    }
}

/* The point of that name, made if there is none (1). */
static struct failpoint *point_make(const char *name)
{
    struct failpoint **at = &points;
    while (*at && strcmp((*at)->name, name) < 0)
        at = &(*at)->next;
    if (*at && strcmp((*at)->name, name) == 0)
        return *at;
    struct failpoint *point = mem_new(struct failpoint);
    point->name = name;
    point->next = *at;
    check(pthread_mutex_init(&point->lock, NULL) == 0);
    *at = point;
    return point;
}

int failpoint_start(void)
{
    const char *terms = getenv("GOFAIL_FAILPOINTS");
    const char *address = getenv("GOFAIL_HTTP");
    uint64_t seed = rng_entropy();
    rng_init(&point_rng, seed);
    for (struct failpoint_site *site = __start_failpoint_sites; site < __stop_failpoint_sites;
         site++)
        site->point = point_make(site->name);
    log_warn("failpoints are compiled in", LOG_U64("seed", seed), LOG_STR("failpoints", terms),
             LOG_STR("address", address));
    if (terms && failpoint_enable_many(terms) != FAILPOINT_DONE)
        return err_origin(-EINVAL);
    if (!address || !address[0])
        return 0;
    int r = failpoint_http_start(address);
    http_started = r == 0;
    return r;
}

void failpoint_stop(void)
{
    if (http_started)
        failpoint_http_stop();
    http_started = false;
    for (struct failpoint_site *site = __start_failpoint_sites; site < __stop_failpoint_sites;
         site++)
        site->point = NULL;
    while (points) {
        struct failpoint *point = points;
        points = point->next;
        pthread_mutex_destroy(&point->lock);
        free(point->text);
        free(point);
    }
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * System calls of simulated processes (see system.h). The clock's functions take the place of
 * base/clock_real.c; the others are reached by the linker's --wrap.
 *
 * Thread: the only one.
 */
#include "tests/sim/system.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/rng.h"
#include "storage/disk_space.h"
#include "tests/sim/disk.h"
#include "tests/sim/kernel.h"
#include "tests/sim/trace.h"

/* They are declared nowhere: the linker makes the names. */
#pragma GCC diagnostic ignored "-Wmissing-prototypes"

enum { FD_SIMULATED = 1000000, LAST_WORDS_BYTES = 400 };

static struct rng rng;
static char last_words[LAST_WORDS_BYTES];

void system_init(uint64_t seed, bool show_logs)
{
    rng_init(&rng, seed);
    log_level_min = show_logs ? LOG_INFO : LOG_ERROR;
    last_words[0] = '\0';
}

uint64_t system_random(void)
{
    return rng_next(&rng);
}

bool system_chance(uint32_t ppm)
{
    return rng_below(&rng, 1000000) < ppm;
}

const char *system_last_words(void)
{
    return last_words;
}

uint64_t __wrap_rng_entropy(void)
{
    return rng_next(&rng);
}

/* ---- time ---- */

uint64_t clock_mono_ns(void)
{
    struct process *p = kernel_process();

    return p ? process_mono_ns(p) : kernel_now();
}

uint64_t clock_wall_ns(void)
{
    struct process *p = kernel_process();

    return p ? process_wall_ns(p) : KERNEL_EPOCH_NS + kernel_now();
}

uint64_t clock_thread_cpu_ns(void)
{
    return 0;
}

int __wrap_clock_gettime(clockid_t id, struct timespec *ret)
{
    uint64_t ns = id == CLOCK_REALTIME ? clock_wall_ns() : clock_mono_ns();

    *ret = (struct timespec){.tv_sec = (time_t)(ns / SECOND), .tv_nsec = (long)(ns % SECOND)};
    return 0;
}

/* ---- logs and the end ---- */

static void append_field(struct buf *out, const struct log_field *f)
{
    switch (f->kind) {
    case LOG_KIND_STR:
    case LOG_KIND_JSON: buf_printf(out, " %s=%s", f->key, f->str ? f->str : ""); break;
    case LOG_KIND_HEX: buf_printf(out, " %s=%lx", f->key, (unsigned long)f->u64); break;
    case LOG_KIND_BOOL: buf_printf(out, " %s=%d", f->key, f->boolean); break;
    case LOG_KIND_DOUBLE: buf_printf(out, " %s=%g", f->key, f->number); break;
    case LOG_KIND_I64:
    case LOG_KIND_U64:
    case LOG_KIND_DURATION: buf_printf(out, " %s=%ld", f->key, (long)f->i64); break;
    default: break;
    }
}

void __wrap_log_line(enum log_level level, const char *file, int line, const char *msg,
                     const struct log_field *fields)
{
    struct process *p = kernel_process();
    struct buf text = BUF_NULL;

    buf_printf(&text, "%s log: %s", p ? p->name : "-", msg);
    for (const struct log_field *f = fields; f && f->key; f++)
        append_field(&text, f);
    trace_text(buf_cstr(&text));
    if (level >= LOG_ERROR)
        snprintf(last_words, sizeof(last_words), "%s", buf_cstr(&text));
    buf_deinit(&text);
}

noreturn void __wrap_check_failed(const char *expression, const char *file, int line)
{
    violated("check", "%s:%d: %s (process %s)", file, line, expression,
             kernel_process() ? kernel_process()->name : "-");
}

noreturn void __wrap_abort(void)
{
    struct process *p = kernel_process();

    if (p)
        process_kill(p);
    violated("abort", "outside of any process");
}

/* ---- files that are not opened through storage/file.h ---- */

int __real_open64(const char *path, int flags, ...);
int __real_close(int fd);
int __real_access(const char *path, int mode);
int __real_stat64(const char *path, struct stat64 *ret);

int __wrap_open64(const char *path, int flags, ...)
{
    mode_t mode = 0;

    if (disk_of(path))
        return FD_SIMULATED;
    if (flags & O_CREAT) {
        va_list args;
        va_start(args, flags);
        mode = va_arg(args, mode_t);
        va_end(args);
    }
    return __real_open64(path, flags, mode);
}

int __wrap_close(int fd)
{
    return fd == FD_SIMULATED ? 0 : __real_close(fd);
}

int __wrap_flock(int fd, int operation)
{
    return 0;
}

int __wrap_fallocate64(int fd, int mode, off64_t offset, off64_t len)
{
    return 0;
}

int __wrap_access(const char *path, int mode)
{
    struct disk *d = disk_of(path);

    if (!d)
        return __real_access(path, mode);
    if (disk_has(d, path))
        return 0;
    errno = ENOENT;
    return -1;
}

int __wrap_stat64(const char *path, struct stat64 *ret)
{
    struct disk *d = disk_of(path);

    if (!d)
        return __real_stat64(path, ret);
    if (!disk_has(d, path)) {
        errno = ENOENT;
        return -1;
    }
    *ret = (struct stat64){.st_mode = S_IFDIR | 0700};
    return 0;
}

int disk_space(const char *path, struct disk_space *ret)
{
    *ret = (struct disk_space){UINT64_MAX, UINT64_MAX};
    return 0;
}

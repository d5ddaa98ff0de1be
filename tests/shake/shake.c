/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Preloaded into a program, delays its threads at random: around locks, wake-ups and system calls,
 * where one thread may overtake another. One call in SHAKE_RATE sleeps for up to SHAKE_US; one
 * sleep in RARE is up to RARE_US long, as when a busy machine takes the processor away.
 *
 * The delays come from SHAKE_SEED, but which thread meets them when is the kernel's choice: a seed
 * makes a failure likely again, not certain.
 *
 * Thread: any; the generator is each thread's own.
 */
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { RARE = 64, RARE_US = 60000 };

static struct {
    unsigned long rate, us, seed;
} options = {100, 2000, 1};

static atomic_ulong n_threads;
static _Thread_local uint64_t state;

static void option_read(const char *name, unsigned long *ret)
{
    const char *text = getenv(name);
    unsigned long value = text ? strtoul(text, NULL, 10) : 0;

    if (value > 0)
        *ret = value;
}

__attribute__((constructor)) static void options_read(void)
{
    option_read("SHAKE_RATE", &options.rate);
    option_read("SHAKE_US", &options.us);
    option_read("SHAKE_SEED", &options.seed);
}

/* xorshift64 */
static uint64_t draw(void)
{
    if (!state)
        state = options.seed * 0x9E3779B97F4A7C15 +
                (atomic_fetch_add(&n_threads, 1) + 1) * 0xBF58476D1CE4E5B9;
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state >> 16;
}

static void shake(void)
{
    if (draw() % options.rate != 0)
        return;
    uint64_t us = draw() % (draw() % RARE ? options.us : RARE_US);
    struct timespec t = {(time_t)(us / 1000000), (long)(us % 1000000) * 1000};
    int saved = errno;
    nanosleep(&t, NULL);
    errno = saved;
}

/* ---- what is called in place of the C library's ---- */

/* Of condition variables glibc for x86-64 still has the first kind, which dlsym() would find. */
#ifdef __x86_64__
#define FIND_COND(name) dlvsym(RTLD_NEXT, name, "GLIBC_2.3.2")
#else
#define FIND_COND(name) dlsym(RTLD_NEXT, name)
#endif

#define REAL_BY(find, name, ...)                                                                   \
    ({                                                                                             \
        static __typeof__(name) *real_;                                                            \
        if (!real_)                                                                                \
            real_ = (__typeof__(name) *)find;                                                      \
        real_(__VA_ARGS__);                                                                        \
    })
#define REAL(name, ...) REAL_BY(dlsym(RTLD_NEXT, #name), name, __VA_ARGS__)
#define REAL_COND(name, ...) REAL_BY(FIND_COND(#name), name, __VA_ARGS__)

#define BEFORE(type, name, parameters, ...)                                                        \
    type name parameters                                                                           \
    {                                                                                              \
        shake();                                                                                   \
        return REAL(name, __VA_ARGS__);                                                            \
    }
#define BEHIND(type, name, parameters, ...)                                                        \
    type name parameters                                                                           \
    {                                                                                              \
        type r = REAL(name, __VA_ARGS__);                                                          \
        shake();                                                                                   \
        return r;                                                                                  \
    }
#define BEFORE_COND(name)                                                                          \
    int name(pthread_cond_t *c)                                                                    \
    {                                                                                              \
        shake();                                                                                   \
        return REAL_COND(name, c);                                                                 \
    }

BEFORE(int, pthread_mutex_lock, (pthread_mutex_t * m), m)
BEHIND(int, pthread_mutex_unlock, (pthread_mutex_t * m), m)
BEFORE_COND(pthread_cond_signal)
BEFORE_COND(pthread_cond_broadcast)
BEHIND(int, epoll_wait, (int fd, struct epoll_event *e, int n, int ms), fd, e, n, ms)
BEHIND(int, accept4, (int fd, struct sockaddr *a, socklen_t *len, int flags), fd, a, len, flags)
BEHIND(ssize_t, read, (int fd, void *b, size_t n), fd, b, n)
BEHIND(ssize_t, recv, (int fd, void *b, size_t n, int flags), fd, b, n, flags)
BEFORE(ssize_t, write, (int fd, const void *b, size_t n), fd, b, n)
BEFORE(ssize_t, writev, (int fd, const struct iovec *v, int n), fd, v, n)
BEFORE(ssize_t, send, (int fd, const void *b, size_t n, int flags), fd, b, n, flags)
BEHIND(ssize_t, sendmsg, (int fd, const struct msghdr *m, int flags), fd, m, flags)
BEFORE(int, close, (int fd), fd)
BEFORE(int, fsync, (int fd), fd)
BEFORE(int, fdatasync, (int fd), fd)

struct begun {
    void *(*run)(void *arg);
    void *arg;
};

static void *thread_main(void *arg)
{
    struct begun b = *(struct begun *)arg;

    free(arg);
    shake();
    return b.run(b.arg);
}

int pthread_create(pthread_t *ret, const pthread_attr_t *attr, void *(*run)(void *), void *arg)
{
    struct begun *b = malloc(sizeof(*b));

    if (!b)
        return EAGAIN;
    *b = (struct begun){run, arg};
    int r = REAL(pthread_create, ret, attr, thread_main, b);
    if (r != 0)
        free(b);
    return r;
}

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The simulated operating system: virtual time, processes, their threads. Production code runs on
 * it unchanged, threads and all: threads.c puts pthreads, and system.c the clocks and the few
 * system calls, on top of what is here.
 *
 * Everything happens on one real thread. A simulated thread (a fiber) runs until it blocks: on a
 * mutex, a condition, a disk, or because the scheduler takes the processor away (at a mutex, with
 * the probability that the process says). Then the next event is taken from the queue. So all is
 * decided by the order of events, and that by the seed.
 *
 * A process that is killed loses its fibers where they stand; what it had in memory is never used
 * again. It is not given back either: a real process runs a few seeds and ends.
 *
 * Thread: the only one. "Outside" means: not on a fiber, but in the event loop.
 */
#pragma once

#include <stdnoreturn.h>

#include "base/list.h"
#include "base/rng.h"

struct fiber;

enum {
    KERNEL_EVENTS_MAX = 1 << 20,
    KERNEL_STACK_BYTES = 256 << 10,
};

#define MICROSECOND UINT64_C(1000)
#define MILLISECOND UINT64_C(1000000)
#define SECOND UINT64_C(1000000000)
#define KERNEL_EPOCH_NS (UINT64_C(1700000000) * SECOND) /* wall clocks begin about there */

/* One life of a simulated process is from process_start() to process_kill(). */
struct process {
    const char *name;
    void *owner;
    /* Called outside, after a kill from inside (abort(), a crash at a disk's boundary). */
    void (*died)(struct process *p);

    bool alive;
    bool paused;           /* SIGSTOP: its fibers wait, its time goes on */
    uint64_t delay_ns_max; /* until a thread that may run does run */
    uint32_t preempt_ppm;  /* probability of losing the processor at a mutex */
    uint64_t hash_seed;

    /* Its clocks: local time at true time `since`, and how fast it goes on from there. */
    uint64_t since_ns;
    uint64_t mono_ns;
    uint32_t rate_ppm; /* 1,000,000 = true */
    int64_t wall_ns;   /* wall clock minus monotonic */

    struct list fibers; /* of this life */
    struct list link;   /* in the list of all processes */
};

void kernel_init(uint64_t seed);
void kernel_deinit(void);
uint64_t kernel_now(void); /* true time, ns */
/* The process whose fiber runs; NULL: outside. */
struct process *kernel_process(void);
/* A fingerprint of all that happened so far. */
uint64_t kernel_digest(void);
void kernel_digest_add(uint64_t value);

/* Calls run(arg) outside, in delay_ns. */
void kernel_after(uint64_t delay_ns, void (*run)(void *arg), void *arg);
/* Takes the next event. False: there is none. */
bool kernel_step(void);
uint64_t kernel_events(void); /* taken so far */

void process_init(struct process *p, const char *name, void *owner);
void process_start(struct process *p);
/* From anywhere; does not return if a fiber of the process calls it. */
void process_kill(struct process *p);
void process_pause(struct process *p);
void process_resume(struct process *p);
/* Changes the speed of its clock from now on. */
void process_clock_rate(struct process *p, uint32_t rate_ppm);
uint64_t process_mono_ns(const struct process *p);
uint64_t process_wall_ns(const struct process *p);
/* How much true time passes until its monotonic clock shows local_ns. */
uint64_t process_true_delay(const struct process *p, uint64_t local_ns);

/* ---- fibers ---- */

/* A thread of p that runs run(arg) and ends; its first turn comes after a scheduling delay. */
struct fiber *fiber_new(struct process *p, void (*run)(void *arg), void *arg);
uint64_t fiber_id(const struct fiber *f); /* never used again */
struct fiber *fiber_current(void);        /* NULL: outside */

/* The current fiber sleeps for true time. */
void fiber_sleep(uint64_t ns);
/* Gives the processor away for a moment. */
void fiber_yield(void);
/* Blocks on an address until somebody wakes it, or until delay_ns have passed (UINT64_MAX: never).
 * False: time-out. */
bool fiber_wait(const void *address, uint64_t delay_ns);
/* Wakes one fiber of p (NULL: of any process) that waits on address, or all. */
void fiber_wake(struct process *p, const void *address, bool all);
/* True: there is a live fiber with that id. */
bool fiber_lives(uint64_t id);

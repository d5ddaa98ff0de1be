/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The simulated operating system (see kernel.h): events, processes and fibers.
 *
 * A fiber has a real stack. The first switch to it goes through setcontext(), all others through
 * _setjmp() and _longjmp(), which cost no system call; under AddressSanitizer, which follows
 * stacks, all of them are swapcontext(). Stacks are kept and used again.
 *
 * Invariants:
 *   (I1) an event names a fiber and its ticket; a fiber takes a new ticket each time it blocks, so
 *        a wake-up that comes too late, or to a dead fiber, does nothing.
 *   (I2) events of one moment run in the order in which they were made.
 *   (I3) a fiber of a paused process does not run: its wake-up stays with it until the process is
 *        resumed.
 */
#include "tests/sim/kernel.h"

#include <setjmp.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#include "base/check.h"
#include "base/map.h"
#include "base/mem.h"
#include "tests/sim/fiber_switch.h"

struct event {
    uint64_t at;
    uint64_t number;
    struct fiber *fiber; /* NULL: call run */
    uint64_t ticket;
    void (*run)(void *arg);
    void *arg;
};

struct fiber {
    struct fiber_context context;
    uint64_t id;
    uint64_t ticket;
    struct process *process; /* NULL: in the pool */
    void (*run)(void *arg);
    void *arg;
    const void *waits_on;
    bool timed_out;
    bool stalled;     /* (I3) */
    struct list link; /* in its process, or in the pool */
};

static struct {
    struct rng rng;
    uint64_t now;
    struct event *heap;
    size_t len, cap;
    uint64_t events_made, events_taken;
    uint64_t digest;
    struct list processes;
    struct list pool; /* ended fibers */
    struct fiber_context outside;
    struct fiber *current;
    struct process *died; /* by its own fiber */
    uint64_t fibers_made;
} kernel;

/* ---- events ---- */

static bool event_before(const struct event *a, const struct event *b)
{
    return a->at != b->at ? a->at < b->at : a->number < b->number;
}

static void heap_push(struct event e)
{
    size_t i = kernel.len++;

    if (i == kernel.cap) {
        kernel.cap = kernel.cap ? 2 * kernel.cap : 1024;
        check(kernel.cap <= KERNEL_EVENTS_MAX);
        kernel.heap = mem_realloc(kernel.heap, kernel.cap * sizeof(*kernel.heap));
    }
    for (; i > 0 && event_before(&e, &kernel.heap[(i - 1) / 2]); i = (i - 1) / 2)
        kernel.heap[i] = kernel.heap[(i - 1) / 2];
    kernel.heap[i] = e;
}

static struct event heap_pop(void)
{
    struct event top = kernel.heap[0], last = kernel.heap[--kernel.len];
    size_t i = 0, child;

    while ((child = 2 * i + 1) < kernel.len) {
        if (child + 1 < kernel.len && event_before(&kernel.heap[child + 1], &kernel.heap[child]))
            child++;
        if (!event_before(&kernel.heap[child], &last))
            break;
        kernel.heap[i] = kernel.heap[child];
        i = child;
    }
    kernel.heap[i] = last;
    return top;
}

static void schedule(struct event e, uint64_t delay_ns)
{
    e.at = delay_ns < UINT64_MAX - kernel.now ? kernel.now + delay_ns : UINT64_MAX;
    e.number = ++kernel.events_made;
    heap_push(e);
}

void kernel_after(uint64_t delay_ns, void (*run)(void *arg), void *arg)
{
    schedule((struct event){.run = run, .arg = arg}, delay_ns);
}

/* ---- switching ---- */

static void process_enter(struct fiber *f)
{
    kernel.current = f;
    hash_seed_set(f->process->hash_seed);
}

/* Runs f until it gives the processor back. */
static void switch_to(struct fiber *f)
{
    process_enter(f);
    fiber_switch(&kernel.outside, &f->context);
    kernel.current = NULL;
}

static void switch_out(void)
{
    fiber_switch(&kernel.current->context, &kernel.outside);
}

static void fiber_end(struct fiber *f)
{
    f->process = NULL;
    f->ticket++;
    f->waits_on = NULL;
    list_remove(&f->link);
    list_push(&kernel.pool, &f->link);
}

static void fiber_main(void *arg)
{
    struct fiber *f = arg;

    for (;;) {
        f->run(f->arg);
        fiber_end(f);
        switch_out();
    }
}

static void *stack_new(void)
{
    void *stack = mmap(NULL, KERNEL_STACK_BYTES, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    check(stack != MAP_FAILED);
    check(mprotect(stack, 4096, PROT_NONE) == 0);
    return stack;
}

static struct fiber *fiber_take(void)
{
    struct list *link = list_pop(&kernel.pool);

    if (link)
        return container_of(link, struct fiber, link);
    struct fiber *f = mem_new(struct fiber);
    fiber_context_init(&f->context, stack_new(), KERNEL_STACK_BYTES, fiber_main, f);
    return f;
}

static uint64_t scheduling_delay(const struct process *p)
{
    return p->delay_ns_max ? rng_below(&kernel.rng, p->delay_ns_max) : 0;
}

static void fiber_ready(struct fiber *f, uint64_t delay_ns)
{
    schedule((struct event){.fiber = f, .ticket = f->ticket}, delay_ns);
}

struct fiber *fiber_new(struct process *p, void (*run)(void *arg), void *arg)
{
    struct fiber *f = fiber_take();

    check(p->alive);
    f->id = ++kernel.fibers_made;
    f->process = p;
    f->run = run;
    f->arg = arg;
    f->ticket++;
    f->stalled = false;
    list_push(&p->fibers, &f->link);
    fiber_ready(f, scheduling_delay(p));
    return f;
}

uint64_t fiber_id(const struct fiber *f)
{
    return f->id;
}

struct fiber *fiber_current(void)
{
    return kernel.current;
}

bool fiber_lives(uint64_t id)
{
    list_for_each (at, &kernel.processes) {
        struct process *p = container_of(at, struct process, link);
        list_for_each (link, &p->fibers) {
            if (container_of(link, struct fiber, link)->id == id)
                return true;
        }
    }
    return false;
}

/* ---- blocking ---- */

/* Returns in a later event of this fiber. */
static void block(void)
{
    switch_out();
}

void fiber_sleep(uint64_t ns)
{
    struct fiber *f = kernel.current;

    check(f);
    f->ticket++;
    fiber_ready(f, ns);
    block();
}

void fiber_yield(void)
{
    fiber_sleep(scheduling_delay(kernel.current->process));
}

bool fiber_wait(const void *address, uint64_t delay_ns)
{
    struct fiber *f = kernel.current;

    check(f);
    f->ticket++;
    f->waits_on = address;
    f->timed_out = true;
    if (delay_ns != UINT64_MAX)
        fiber_ready(f, delay_ns);
    block();
    f->waits_on = NULL;
    return !f->timed_out;
}

/* True: one was woken. */
static bool wake_in(struct process *p, const void *address, bool all)
{
    bool woken = false;

    list_for_each (link, &p->fibers) {
        struct fiber *f = container_of(link, struct fiber, link);
        if (f->waits_on != address)
            continue;
        f->waits_on = NULL;
        f->timed_out = false;
        f->ticket++;
        fiber_ready(f, scheduling_delay(p));
        woken = true;
        if (!all)
            break;
    }
    return woken;
}

void fiber_wake(struct process *p, const void *address, bool all)
{
    if (p) {
        (void)wake_in(p, address, all);
        return;
    }
    list_for_each (link, &kernel.processes) {
        if (wake_in(container_of(link, struct process, link), address, all) && !all)
            return;
    }
}

/* ---- the loop ---- */

static void digest_event(const struct event *e)
{
    kernel_digest_add(e->at);
    kernel_digest_add(e->fiber ? e->fiber->id : 0);
}

static void bury(struct process *p)
{
    struct list *link;

    while ((link = list_pop(&p->fibers))) {
        struct fiber *f = container_of(link, struct fiber, link);
        f->process = NULL;
        f->ticket++;
        f->waits_on = NULL;
        fiber_context_reset(&f->context, fiber_main, f);
        list_push(&kernel.pool, &f->link);
    }
}

static void run_fiber(struct fiber *f)
{
    if (f->process->paused) {
        f->stalled = true;
        return;
    }
    switch_to(f);
    if (kernel.died) {
        struct process *p = kernel.died;
        kernel.died = NULL;
        bury(p);
        p->died(p);
    }
}

bool kernel_step(void)
{
    if (kernel.len == 0)
        return false;
    struct event e = heap_pop();
    kernel.events_taken++;
    kernel.now = e.at;
    if (e.fiber && e.fiber->ticket != e.ticket)
        return true; /* (I1) */
    digest_event(&e);
    if (e.fiber)
        run_fiber(e.fiber);
    else
        e.run(e.arg);
    return true;
}

/* ---- processes ---- */

void process_init(struct process *p, const char *name, void *owner)
{
    *p = (struct process){.name = name, .owner = owner, .rate_ppm = 1000000};
    p->mono_ns = 100 * SECOND;
    list_init(&p->fibers);
    list_push(&kernel.processes, &p->link);
}

void process_start(struct process *p)
{
    check(!p->alive && list_empty(&p->fibers));
    p->alive = true;
    p->paused = false;
}

void process_kill(struct process *p)
{
    if (!p->alive)
        return;
    p->alive = false;
    if (kernel.current && kernel.current->process == p) {
        kernel.died = p;
        switch_out();
        check(false);
    }
    bury(p);
    p->died(p);
}

void process_pause(struct process *p)
{
    p->paused = p->alive;
}

void process_resume(struct process *p)
{
    if (!p->paused)
        return;
    p->paused = false;
    list_for_each (link, &p->fibers) {
        struct fiber *f = container_of(link, struct fiber, link);
        if (!f->stalled)
            continue;
        f->stalled = false;
        fiber_ready(f, scheduling_delay(p));
    }
}

uint64_t process_mono_ns(const struct process *p)
{
    return p->mono_ns +
           (uint64_t)((unsigned __int128)(kernel.now - p->since_ns) * p->rate_ppm / 1000000);
}

uint64_t process_wall_ns(const struct process *p)
{
    return KERNEL_EPOCH_NS + process_mono_ns(p) + (uint64_t)p->wall_ns;
}

void process_clock_rate(struct process *p, uint32_t rate_ppm)
{
    check(rate_ppm > 0);
    p->mono_ns = process_mono_ns(p);
    p->since_ns = kernel.now;
    p->rate_ppm = rate_ppm;
}

uint64_t process_true_delay(const struct process *p, uint64_t local_ns)
{
    uint64_t now = process_mono_ns(p);

    if (local_ns <= now)
        return 0;
    return (uint64_t)(((unsigned __int128)(local_ns - now) * 1000000 + p->rate_ppm - 1) /
                      p->rate_ppm);
}

/* ---- all of it ---- */

void kernel_init(uint64_t seed)
{
    rng_init(&kernel.rng, seed);
    kernel.now = 0;
    kernel.len = 0;
    kernel.events_made = kernel.events_taken = kernel.fibers_made = 0;
    kernel.digest = 0;
    list_init(&kernel.processes);
    if (!kernel.pool.next)
        list_init(&kernel.pool);
}

/* Stacks stay for the next one. */
void kernel_deinit(void)
{
    struct list *link;

    while ((link = list_pop(&kernel.processes))) {
        struct process *p = container_of(link, struct process, link);
        p->alive = false;
        bury(p);
    }
    kernel.len = 0;
}

uint64_t kernel_now(void)
{
    return kernel.now;
}

struct process *kernel_process(void)
{
    return kernel.current ? kernel.current->process : NULL;
}

uint64_t kernel_events(void)
{
    return kernel.events_taken;
}

uint64_t kernel_digest(void)
{
    return kernel.digest;
}

void kernel_digest_add(uint64_t value)
{
    kernel.digest = (kernel.digest ^ value) * UINT64_C(0x9e3779b97f4a7c15);
    kernel.digest ^= kernel.digest >> 29;
}

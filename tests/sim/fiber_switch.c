/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Changing stacks (see fiber_switch.h): with setcontext() and _longjmp(), or, where
 * AddressSanitizer has to be told of every stack, with swapcontext() and its marks. It owns
 * nothing: a fiber's context and stack are the kernel's.
 *
 * Thread: one.
 */
#include "tests/sim/fiber_switch.h"

#include <stdint.h>

#include "base/check.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>

/* Of the real thread: known from the first fiber on, which was entered from there. */
static const void *outside_stack;
static size_t outside_bytes;
#endif

/* makecontext() passes ints. */
static void start(unsigned main_high, unsigned main_low, unsigned arg_high, unsigned arg_low)
{
    void (*run)(void *) = (void (*)(void *))((uintptr_t)main_high << 32 | main_low);
    void *arg = (void *)((uintptr_t)arg_high << 32 | arg_low);
#if defined(__SANITIZE_ADDRESS__)
    const void *from;
    size_t bytes;
    __sanitizer_finish_switch_fiber(NULL, &from, &bytes);
    if (!outside_stack) {
        outside_stack = from;
        outside_bytes = bytes;
    }
#endif
    run(arg);
    check(false);
}

void fiber_context_reset(struct fiber_context *c, void (*main)(void *arg), void *arg)
{
    uintptr_t m = (uintptr_t)main, a = (uintptr_t)arg;

    check(getcontext(&c->start) == 0);
    c->start.uc_stack.ss_sp = c->stack;
    c->start.uc_stack.ss_size = c->stack_bytes;
    c->start.uc_link = NULL;
    makecontext(&c->start, (void (*)(void))start, 4, (unsigned)(m >> 32), (unsigned)m,
                (unsigned)(a >> 32), (unsigned)a);
    c->fresh = true;
    c->fake_stack = NULL;
#if defined(__SANITIZE_ADDRESS__)
    ASAN_UNPOISON_MEMORY_REGION((char *)c->stack + 4096, c->stack_bytes - 4096);
#endif
}

void fiber_context_init(struct fiber_context *c, void *stack, size_t stack_bytes,
                        void (*main)(void *arg), void *arg)
{
    c->stack = stack;
    c->stack_bytes = stack_bytes;
    fiber_context_reset(c, main, arg);
}

#if defined(__SANITIZE_ADDRESS__)
void fiber_switch(struct fiber_context *from, struct fiber_context *to)
{
    const void *stack = to->stack ? to->stack : outside_stack;
    size_t bytes = to->stack ? to->stack_bytes : outside_bytes;

    __sanitizer_start_switch_fiber(&from->fake_stack, stack, bytes);
    check(swapcontext(&from->start, &to->start) == 0);
    __sanitizer_finish_switch_fiber(from->fake_stack, NULL, NULL);
}
#else
void fiber_switch(struct fiber_context *from, struct fiber_context *to)
{
    if (_setjmp(from->jump) != 0)
        return;
    if (to->fresh) {
        to->fresh = false;
        setcontext(&to->start);
    }
    _longjmp(to->jump, 1);
}
#endif

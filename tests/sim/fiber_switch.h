/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Changing stacks. Not copied from one run to the next: a context belongs to one stack for ever,
 * and fiber_context_reset() begins anew at its bottom.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include <setjmp.h>
#include <ucontext.h>

struct fiber_context {
    jmp_buf jump;
    ucontext_t start;
    bool fresh; /* has not run since its (re)start */
    void *stack;
    size_t stack_bytes;
    void *fake_stack; /* AddressSanitizer's */
};

/* main(arg) never returns. The lowest page of the stack may be a guard. */
void fiber_context_init(struct fiber_context *c, void *stack, size_t stack_bytes,
                        void (*main)(void *arg), void *arg);
void fiber_context_reset(struct fiber_context *c, void (*main)(void *arg), void *arg);
/* Leaves `from` where it is and goes on in `to`; returns when somebody switches to `from`. */
void fiber_switch(struct fiber_context *from, struct fiber_context *to);

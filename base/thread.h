/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Threads whose work may wait. Thread: the one it is about.
 */
#pragma once

/* From here on the calling thread runs when others leave the processor to it: what clients wait
 * for goes before bulk work on the same machine. It still gets about a tenth beside them. */
void thread_set_background(void);

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * On Linux niceness is a thread's own, and 0 names the calling one. A process may always become
 * nicer, so there is nothing to report.
 */
#include "base/thread.h"

#include <sys/resource.h>

enum { BACKGROUND_NICE = 10 };

void thread_set_background(void)
{
    (void)setpriority(PRIO_PROCESS, 0, BACKGROUND_NICE);
}

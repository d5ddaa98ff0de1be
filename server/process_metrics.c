/* SPDX-License-Identifier: Apache-2.0 */
#include "server/process_metrics.h"

void process_metrics_register(void)
{
}

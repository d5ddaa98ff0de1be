/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

void process_metrics_register(void);

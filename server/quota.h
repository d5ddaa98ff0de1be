/* SPDX-License-Identifier: Apache-2.0 */
/* The space quota (see quota.c). */
#pragma once

#include "server/config.h"

/* Negative: off. */
int64_t quota_bytes(const struct config *config);

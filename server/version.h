/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Versions as etcd's members tell them: three numbers with points between, and perhaps a
 * pre-release or build behind them, which counts for nothing here. Thread: any.
 */
#pragma once

#include "base/bytes.h"

struct version {
    uint32_t major;
    uint32_t minor;
    uint32_t patch;
};

enum { VERSION_TEXT_MAX = 16 }; /* of one that a table stores, with its end */

/* False: no version. */
bool version_parse(const char *text, struct version *ret);
/* Negative, zero, positive like memcmp. */
int version_compare(struct version a, struct version b);
/* What a cluster's version is made of: no patch. */
struct version version_minor(struct version v);
void version_text(struct version v, char ret[VERSION_TEXT_MAX]);

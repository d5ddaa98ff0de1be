/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who is calling, and may it? The one place both are answered. Authentication is not enabled in
 * this version: every caller is anonymous and everything is allowed, exactly as in etcd with auth
 * disabled; the Auth service answers UNIMPLEMENTED.
 */
#pragma once

#include "base/bytes.h"

struct identity {
    struct bytes user; /* empty: anonymous */
    uint64_t revision; /* auth revision it was established at; 0: none */
};

/* Identifies a caller from what it shows. */
int auth_identify(struct bytes token, struct bytes certificate_name, struct identity *ret);

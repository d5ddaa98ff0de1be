/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Do two lists of URLs mean the same? As etcd sees it: as texts, in any order, else by the
 * addresses of their hosts. Thread: the composition root's; blocks while it resolves names.
 */
#pragma once

#include "base/bytes.h"

enum { URL_ADDRESS_MAX = 64, URL_RESOLVE_LIMIT_MS = 30000, URL_RESOLVE_RETRY_MS = 1000 };

/* How names are resolved; a name that can't be is tried again until the time is over. */
struct url_resolver {
    uint64_t until_ms; /* monotonic */
    /* The first address of a host. Outcome 1: none; *ret_error (malloc'd) says why. */
    int (*resolve)(struct url_resolver *r, const char *host, char ret[URL_ADDRESS_MAX],
                   char **ret_error);
    /* Waits; false: the time is over. */
    bool (*pause)(struct url_resolver *r);
};

/* The system's, with etcd's limit of 30 s from now on for all that it is used for. */
void url_resolver_init(struct url_resolver *r);

struct url_texts {
    char *const *items;
    size_t len;
};

/* Outcome 1: they are not; *ret_why (malloc'd) says what differs, in etcd's words. */
int url_texts_compare(struct url_texts a, struct url_texts b, struct url_resolver *r,
                      char **ret_why);

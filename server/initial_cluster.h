/* SPDX-License-Identifier: Apache-2.0 */
/*
 * --initial-cluster: the members by name, with their peer URLs. Thread: the composition root's.
 */
#pragma once

#include "server/member.h"

/* Ascending by name, each one's URLs sorted and as often as they were given; no ids. Outcome 1:
 * wrong, *ret_error (malloc'd) says why in etcd's words. */
int initial_cluster_parse(const char *text, struct member_list *ret, char **ret_error);
const struct member *initial_cluster_find(const struct member_list *list, const char *name);
/* Outcome 1: a URL is there twice. */
int initial_cluster_check_unique(const struct member_list *list, char **ret_error);
/* "name=url,name=url", sorted. */
void initial_cluster_format(const struct member_list *list, struct buf *out);
/* The URLs of all members but the one of that name (NULL: of all), sorted and borrowed; free the
 * array, which may be NULL. */
char **initial_cluster_urls(const struct member_list *list, const char *but, size_t *ret_n);

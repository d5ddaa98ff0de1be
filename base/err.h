/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The error convention of the whole project (after dbus-broker):
 *
 *   0         done.
 *   negative  -errno: fatal to this chain of calls. Forwarded unchanged, up to whoever owns the
 * decision. positive  an outcome, documented at the top of the module's header. The caller must
 * handle it and never forwards it.
 *
 * err_origin() marks the birth of a negative error and prints its place once; err_trace() adds a
 * line on the way up; err_fold() turns a positive outcome that nobody expected into
 * -ENOTRECOVERABLE. All return the (negative) error.
 */
#pragma once

#include <errno.h>

int err_origin_at(int error, const char *file, int line, const char *function);
int err_trace_at(int error, const char *file, int line, const char *function);
int err_fold_at(int error, const char *file, int line, const char *function);

/* What an error (negative or not) means, as Go's programs print it: "not a directory". */
struct err_text {
    char text[64];
};
struct err_text err_text(int error);

#define err_origin(e) err_origin_at((e), __FILE__, __LINE__, __func__)
#define err_trace(e) err_trace_at((e), __FILE__, __LINE__, __func__)
#define err_fold(e) err_fold_at((e), __FILE__, __LINE__, __func__)

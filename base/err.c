/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The places where negative errors are born, passed on and folded, as error lines of the log. These
 * run only on paths that end a chain of calls, so their cost does not matter. Thread: any; errno is
 * preserved.
 */
#include "base/err.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"

static void err_print(const char *what, int error, const char *file, int line, const char *function)
{
    if (log_level_min > LOG_ERROR)
        return;
    log_line(LOG_ERROR, file, line, what,
             (const struct log_field[]){LOG_STR("function", function),
                                        LOG_I64("code", error),
                                        LOG_STR("error", strerror(error < 0 ? -error : error)),
                                        {NULL, LOG_KIND_END, {NULL}}});
}

int err_origin_at(int error, const char *file, int line, const char *function)
{
    err_print("error", error, file, line, function);
    return error < 0 ? error : -ENOTRECOVERABLE;
}

int err_trace_at(int error, const char *file, int line, const char *function)
{
    if (error == 0)
        return 0;
    if (error > 0)
        return err_fold_at(error, file, line, function);
    err_print("error passed on", error, file, line, function);
    return error;
}

int err_fold_at(int error, const char *file, int line, const char *function)
{
    if (error == 0)
        return 0;
    if (error < 0)
        return err_trace_at(error, file, line, function);
    if (log_level_min <= LOG_ERROR)
        log_line(LOG_ERROR, file, line, "unexpected outcome",
                 (const struct log_field[]){LOG_STR("function", function),
                                            LOG_I64("outcome", error),
                                            {NULL, LOG_KIND_END, {NULL}}});
    return -ENOTRECOVERABLE;
}

/* The C library's words begin with a capital letter; apart from it they are the same. */
struct err_text err_text(int error)
{
    struct err_text t;

    snprintf(t.text, sizeof(t.text), "%s", strerror(error < 0 ? -error : error));
    t.text[0] = (char)tolower((unsigned char)t.text[0]);
    return t;
}

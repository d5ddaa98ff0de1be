/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Log lines as etcd's zap writes them: one JSON object a line with level, ts, caller, msg and then
 * the fields, or zap's console form. A line is built in one buffer and written with one write().
 * Formatting never aborts; bad UTF-8 is replaced.
 *
 *   log_info("ready to serve client requests", LOG_STR("address", addr), LOG_U64("n", 3));
 *
 * Thread: any. log_setup() is called once by a composition root before other threads start; without
 * it, info level JSON to stderr.
 */
#pragma once

#include "base/bytes.h"

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR, LOG_PANIC, LOG_FATAL };
enum log_format { LOG_FORMAT_JSON, LOG_FORMAT_CONSOLE };

enum log_kind {
    LOG_KIND_END,
    LOG_KIND_STR,
    LOG_KIND_BYTES,
    LOG_KIND_I64,
    LOG_KIND_U64,
    LOG_KIND_HEX,
    LOG_KIND_BOOL,
    LOG_KIND_DURATION,
    LOG_KIND_DOUBLE,
    LOG_KIND_STRS,
    LOG_KIND_JSON
};

struct log_field {
    const char *key;
    enum log_kind kind;
    union {
        const char *str; /* NULL prints "" */
        struct bytes bytes;
        int64_t i64;  /* DURATION: nanoseconds, printed as Go does ("1.5ms") */
        uint64_t u64; /* HEX: as etcd prints ids, lower-case hex in quotes, no leading zeros */
        bool boolean;
        double number;
        struct {
            const char *const *items;
            size_t len;
        } strs; /* an array of strings */
    };
};

#define LOG_STR(k, v) ((struct log_field){(k), LOG_KIND_STR, {.str = (v)}})
#define LOG_BYTES(k, v) ((struct log_field){(k), LOG_KIND_BYTES, {.bytes = (v)}})
#define LOG_I64(k, v) ((struct log_field){(k), LOG_KIND_I64, {.i64 = (v)}})
#define LOG_U64(k, v) ((struct log_field){(k), LOG_KIND_U64, {.u64 = (v)}})
#define LOG_ID(k, v) ((struct log_field){(k), LOG_KIND_HEX, {.u64 = (v)}})
#define LOG_BOOL(k, v) ((struct log_field){(k), LOG_KIND_BOOL, {.boolean = (v)}})
#define LOG_DURATION(k, ns) ((struct log_field){(k), LOG_KIND_DURATION, {.i64 = (int64_t)(ns)}})
#define LOG_DOUBLE(k, v) ((struct log_field){(k), LOG_KIND_DOUBLE, {.number = (v)}})
#define LOG_STRS(k, v, n) ((struct log_field){(k), LOG_KIND_STRS, {.strs = {(v), (n)}}})
/* The text is valid JSON already. */
#define LOG_JSON(k, text) ((struct log_field){(k), LOG_KIND_JSON, {.str = (text)}})
#define LOG_ERRNO(k, e) LOG_STR((k), strerror((e) < 0 ? -(e) : (e)))

extern enum log_level log_level_min;

void log_line(enum log_level level, const char *file, int line, const char *msg,
              const struct log_field *fields);

#define log_at(level, msg, ...)                                                                    \
    do {                                                                                           \
        if ((level) >= log_level_min)                                                              \
            log_line((level), __FILE__, __LINE__, (msg),                                           \
                     (const struct log_field[]){                                                   \
                         __VA_ARGS__ __VA_OPT__(, ){NULL, LOG_KIND_END, {NULL}}});                 \
    } while (0)

#define log_debug(msg, ...) log_at(LOG_DEBUG, msg, ##__VA_ARGS__)
#define log_info(msg, ...) log_at(LOG_INFO, msg, ##__VA_ARGS__)
#define log_warn(msg, ...) log_at(LOG_WARN, msg, ##__VA_ARGS__)
#define log_error(msg, ...) log_at(LOG_ERROR, msg, ##__VA_ARGS__)
/* For the last words of the process: prints; the caller then exits or aborts. */
#define log_fatal(msg, ...) log_at(LOG_FATAL, msg, ##__VA_ARGS__)

struct log_options {
    enum log_level level;
    enum log_format format;
    /* "default" (stderr, with priorities if that is the journal), "stdout", "stderr",
     * "systemd/journal" (stderr with priorities, which the journal reads), or a file path */
    const char *const *outputs;
    size_t n_outputs;
};

/* Outcome 1: an output could not be opened; *ret_error says which and why (malloc'd). */
int log_setup(const struct log_options *options, char **ret_error);
int log_level_parse(const char *name, enum log_level *ret); /* etcd's names; outcome 1: unknown */
/* Go's time.Duration text, such as "1.5ms" or "2h0m0s". */
void duration_format(struct buf *b, int64_t ns);

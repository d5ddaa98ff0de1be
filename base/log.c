/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Log lines in zap's two encodings, and where they go.
 *
 *   JSON      {"level":"info","ts":"2006-01-02T15:04:05.000000Z","caller":"server/node.c:12",
 *              "msg":"text","key":"value"}
 *   console   ts TAB level TAB caller TAB msg [TAB {"key": "value", "key2": 3}]
 *
 * Thread: any. A line is built in a buffer of its own and leaves with one write() per output (files
 * are opened with O_APPEND), so lines of several threads never mix and no lock is needed. The
 * outputs are set once, before other threads start.
 *
 * Invariants: (1) Whatever bytes come in, a JSON line is valid UTF-8 and one line. (2) errno is the
 * same after a log call as before. (3) A failing output is ignored: a full disk under the log must
 * not stop the server.
 *
 * The journal reads a priority "<N>" in front of each line of a service's stderr, so that is how
 * "systemd/journal" is written.
 */
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/mem.h"
#include "base/number.h"

enum { LOG_OUTPUTS_MAX = 16, LOG_PRIORITY_LEN = 3 };

struct log_output {
    int fd;
    bool with_priority;
    bool owned; /* opened here, closed by the next setup */
};

enum log_level log_level_min = LOG_INFO;

static enum log_format log_format_used = LOG_FORMAT_JSON;
static struct log_output log_outputs[LOG_OUTPUTS_MAX] = {{STDERR_FILENO, false, false}};
static size_t log_n_outputs = 1;

static const char *const level_names[] = {"debug", "info", "warn", "error", "panic", "fatal"};
static const char level_priorities[] = "764322"; /* as etcd gives them to the journal */

/* The length of the valid UTF-8 sequence at p, 0 if there is none. Surrogates, overlong forms and
 * all above U+10FFFF are invalid. */
static size_t utf8_len(const uint8_t *p, size_t left)
{
    uint8_t lead = p[0];
    if (lead < 0x80)
        return 1;
    if (lead < 0xc2 || lead > 0xf4)
        return 0;
    size_t len = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
    if (len > left)
        return 0;
    for (size_t i = 1; i < len; i++)
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    if ((lead == 0xe0 && p[1] < 0xa0) || (lead == 0xed && p[1] > 0x9f))
        return 0;
    if ((lead == 0xf0 && p[1] < 0x90) || (lead == 0xf4 && p[1] > 0x8f))
        return 0;
    return len;
}

static void append_escaped(struct buf *b, uint8_t c)
{
    switch (c) {
    case '"':
    case '\\':
        buf_append_u8(b, '\\');
        buf_append_u8(b, c);
        break;
    case '\n': buf_append_str(b, "\\n"); break;
    case '\r': buf_append_str(b, "\\r"); break;
    case '\t': buf_append_str(b, "\\t"); break;
    default: buf_printf(b, "\\u%04x", c);
    }
}

static void append_string(struct buf *b, struct bytes s)
{
    buf_append_u8(b, '"');
    size_t done = 0;
    for (size_t i = 0; i < s.len;) {
        uint8_t c = s.data[i];
        size_t len = utf8_len(s.data + i, s.len - i);
        if (len > 0 && c >= 0x20 && c != '"' && c != '\\') {
            i += len;
            continue;
        }
        buf_append(b, s.data + done, i - done);
        if (len > 0)
            append_escaped(b, c);
        else
            buf_append_str(b, "\\ufffd");
        done = ++i;
    }
    buf_append(b, s.data + done, s.len - done);
    buf_append_u8(b, '"');
}

static void append_cstr(struct buf *b, const char *s)
{
    append_string(b, bytes_str(s ? s : ""));
}

static void append_strs(struct buf *b, const struct log_field *f, bool spaced)
{
    buf_append_u8(b, '[');
    for (size_t i = 0; i < f->strs.len; i++) {
        if (i > 0)
            buf_append_str(b, spaced ? ", " : ",");
        append_cstr(b, f->strs.items[i]);
    }
    buf_append_u8(b, ']');
}

static void append_double(struct buf *b, double v)
{
    const char *quote = isfinite(v) ? "" : "\"";
    buf_append_str(b, quote);
    number_append_f(b, v);
    buf_append_str(b, quote);
}

static void append_value(struct buf *b, const struct log_field *f, bool spaced)
{
    switch (f->kind) {
    case LOG_KIND_END: break;
    case LOG_KIND_STR: append_cstr(b, f->str); break;
    case LOG_KIND_BYTES: append_string(b, f->bytes); break;
    case LOG_KIND_I64: buf_printf(b, "%lld", (long long)f->i64); break;
    case LOG_KIND_U64: buf_printf(b, "%llu", (unsigned long long)f->u64); break;
    case LOG_KIND_HEX: buf_printf(b, "\"%llx\"", (unsigned long long)f->u64); break;
    case LOG_KIND_BOOL: buf_append_str(b, f->boolean ? "true" : "false"); break;
    case LOG_KIND_DURATION:
        buf_append_u8(b, '"');
        duration_format(b, f->i64);
        buf_append_u8(b, '"');
        break;
    case LOG_KIND_DOUBLE: append_double(b, f->number); break;
    case LOG_KIND_STRS: append_strs(b, f, spaced); break;
    case LOG_KIND_JSON: buf_append_str(b, f->str ? f->str : "null"); break;
    }
}

static void append_fields(struct buf *b, const struct log_field *fields, bool spaced, bool first)
{
    for (const struct log_field *f = fields; f && f->kind != LOG_KIND_END; f++, first = false) {
        if (!first)
            buf_append_str(b, spaced ? ", " : ",");
        append_cstr(b, f->key);
        buf_append_str(b, spaced ? ": " : ":");
        append_value(b, f, spaced);
    }
}

static void append_time(struct buf *b)
{
    uint64_t now_ns = clock_wall_ns();
    time_t seconds = (time_t)(now_ns / 1000000000);
    struct tm t;
    gmtime_r(&seconds, &t);
    buf_printf(b, "%04d-%02d-%02dT%02d:%02d:%02d.%06uZ", t.tm_year + 1900, t.tm_mon + 1, t.tm_mday,
               t.tm_hour, t.tm_min, t.tm_sec, (unsigned)(now_ns % 1000000000 / 1000));
}

/* The last two elements of the path, as zap's short caller. */
static const char *caller_name(const char *file)
{
    const char *slash = strrchr(file, '/');
    while (slash && slash > file && slash[-1] != '/')
        slash--;
    return slash ? slash : file;
}

static void format_json(struct buf *b, enum log_level level, const char *file, int line,
                        const char *msg, const struct log_field *fields)
{
    struct buf caller = BUF_NULL;
    buf_printf(&caller, "%s:%d", caller_name(file), line);
    buf_printf(b, "{\"level\":\"%s\",\"ts\":\"", level_names[level]);
    append_time(b);
    buf_append_str(b, "\",\"caller\":");
    append_string(b, buf_bytes(&caller));
    buf_append_str(b, ",\"msg\":");
    append_cstr(b, msg);
    append_fields(b, fields, false, false);
    buf_append_u8(b, '}');
    buf_deinit(&caller);
}

static void format_console(struct buf *b, enum log_level level, const char *file, int line,
                           const char *msg, const struct log_field *fields)
{
    append_time(b);
    buf_printf(b, "\t%s\t%s:%d\t%s", level_names[level], caller_name(file), line, msg ? msg : "");
    if (fields && fields->kind != LOG_KIND_END) {
        buf_append_str(b, "\t{");
        append_fields(b, fields, true, true);
        buf_append_u8(b, '}');
    }
}

static void output_write(const struct log_output *output, struct bytes line)
{
    if (!output->with_priority) {
        line.data += LOG_PRIORITY_LEN;
        line.len -= LOG_PRIORITY_LEN;
    }
    while (line.len > 0) {
        ssize_t n = write(output->fd, line.data, line.len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return;
        line.data += n;
        line.len -= (size_t)n;
    }
}

void log_line(enum log_level level, const char *file, int line, const char *msg,
              const struct log_field *fields)
{
    int saved_errno = errno;
    struct buf b = BUF_NULL;
    check((size_t)level < sizeof(level_names) / sizeof(level_names[0]));
    buf_reserve(&b, 512);
    buf_printf(&b, "<%c>", level_priorities[level]);
    if (log_format_used == LOG_FORMAT_CONSOLE)
        format_console(&b, level, file, line, msg, fields);
    else
        format_json(&b, level, file, line, msg, fields);
    buf_append_u8(&b, '\n');
    for (size_t i = 0; i < log_n_outputs; i++)
        output_write(&log_outputs[i], buf_bytes(&b));
    buf_deinit(&b);
    errno = saved_errno;
}

static void outputs_close(struct log_output *outputs, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (outputs[i].owned)
            close(outputs[i].fd);
}

/* True if stderr still is the stream that systemd connected to the journal: JOURNAL_STREAM holds
 * its device and inode. */
static bool stderr_is_journal(void)
{
    const char *stream = getenv("JOURNAL_STREAM");
    struct stat st;
    if (!stream || fstat(STDERR_FILENO, &st) < 0)
        return false;
    char expected[48];
    snprintf(expected, sizeof(expected), "%llu:%llu", (unsigned long long)st.st_dev,
             (unsigned long long)st.st_ino);
    return strcmp(stream, expected) == 0;
}

static int output_open(const char *name, struct log_output *ret)
{
    if (strcmp(name, "default") == 0) {
        *ret = (struct log_output){STDERR_FILENO, stderr_is_journal(), false};
    } else if (strcmp(name, "stderr") == 0) {
        *ret = (struct log_output){STDERR_FILENO, false, false};
    } else if (strcmp(name, "stdout") == 0) {
        *ret = (struct log_output){STDOUT_FILENO, false, false};
    } else if (strcmp(name, "systemd/journal") == 0) {
        *ret = (struct log_output){STDERR_FILENO, true, false};
    } else {
        int fd = open(name, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666);
        if (fd < 0)
            return -errno;
        *ret = (struct log_output){fd, false, true};
    }
    return 0;
}

/* An output named twice, or under two names ("default" and "stderr"), is written once. */
static bool output_is_known(const struct log_options *options, size_t i,
                            const struct log_output *outputs, size_t n,
                            const struct log_output *output)
{
    for (size_t j = 0; j < i; j++)
        if (strcmp(options->outputs[j], options->outputs[i]) == 0)
            return true;
    for (size_t j = 0; j < n; j++)
        if (outputs[j].fd == output->fd)
            return true;
    return false;
}

int log_setup(const struct log_options *options, char **ret_error)
{
    struct log_output outputs[LOG_OUTPUTS_MAX];
    size_t n = 0;
    if (options->n_outputs > LOG_OUTPUTS_MAX) {
        *ret_error = mem_printf("more than %d log outputs", LOG_OUTPUTS_MAX);
        return 1;
    }
    for (size_t i = 0; i < options->n_outputs; i++) {
        struct log_output output;
        int r = output_open(options->outputs[i], &output);
        if (r < 0) {
            outputs_close(outputs, n);
            *ret_error = mem_printf("open sink \"%s\": open %s: %s", options->outputs[i],
                                    options->outputs[i], err_text(r).text);
            return 1;
        }
        if (output_is_known(options, i, outputs, n, &output))
            outputs_close(&output, 1);
        else
            outputs[n++] = output;
    }
    outputs_close(log_outputs, log_n_outputs);
    memcpy(log_outputs, outputs, n * sizeof(outputs[0]));
    log_n_outputs = n;
    log_format_used = options->format;
    log_level_min = options->level;
    return 0;
}

int log_level_parse(const char *name, enum log_level *ret)
{
    static const struct {
        const char *name;
        enum log_level level;
    } names[] = {
        {"debug", LOG_DEBUG},  {"info", LOG_INFO},    {"", LOG_INFO},
        {"warn", LOG_WARN},    {"warning", LOG_WARN}, {"error", LOG_ERROR},
        {"dpanic", LOG_PANIC}, {"panic", LOG_PANIC},  {"fatal", LOG_FATAL},
    };
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (strcasecmp(name, names[i].name) == 0) {
            *ret = names[i].level;
            return 0;
        }
    }
    return 1;
}

/* A number with a decimal point placed before its last digits digits, trailing zeros and a bare
 * point left out. */
static void append_fraction(struct buf *b, uint64_t v, unsigned digits)
{
    uint64_t unit = 1;
    for (unsigned i = 0; i < digits; i++)
        unit *= 10;
    buf_printf(b, "%llu", (unsigned long long)(v / unit));
    v %= unit;
    if (v == 0)
        return;
    for (; v % 10 == 0; digits--)
        v /= 10;
    buf_printf(b, ".%0*llu", (int)digits, (unsigned long long)v);
}

void duration_format(struct buf *b, int64_t ns)
{
    uint64_t v = ns < 0 ? -(uint64_t)ns : (uint64_t)ns;
    uint64_t minute_ns = 60000000000;
    if (v == 0) {
        buf_append_str(b, "0s");
        return;
    }
    if (ns < 0)
        buf_append_u8(b, '-');
    if (v < 1000000000) {
        unsigned digits = v < 1000 ? 0 : v < 1000000 ? 3 : 6;
        append_fraction(b, v, digits);
        buf_append_str(b, digits == 0 ? "ns" : digits == 3 ? "\xc2\xb5s" : "ms");
        return;
    }
    uint64_t minutes = v / minute_ns;
    if (minutes >= 60)
        buf_printf(b, "%lluh", (unsigned long long)(minutes / 60));
    if (minutes > 0)
        buf_printf(b, "%llum", (unsigned long long)(minutes % 60));
    append_fraction(b, v % minute_ns, 9);
    buf_append_u8(b, 's');
}

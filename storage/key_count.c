/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Counting keys. Thread: any; no state.
 *
 * Creations and deletions of one key alternate, so for any interval
 *
 *     live at R = live in the view - creations in (R, view] + deletions in (R, view]
 *
 * without looking at single keys. Counting heads costs some 0.3 us a key, reading a change about as
 * much; walking k at the revision costs several times that per key, which is what
 * CHANGES_PER_KEY_MAX weighs.
 */
#include "storage/key_count.h"

#include "base/check.h"
#include "base/err.h"
#include "base/log.h"
#include "storage/schema.h"

enum { CHANGES_PER_KEY_MAX = 4, CHANGES_MIN = 1024 };

void key_count_bounds(const struct interval *interval, struct buf *lower, struct buf *upper)
{
    schema_h(lower, interval->key);
    if (interval->kind == INTERVAL_RANGE)
        schema_h(upper, interval->end);
    else
        buf_append_u8(upper, 'h' + 1);
}

static int heads_count(struct db *db, const struct db_view *view, const struct interval *interval,
                       int64_t *ret)
{
    _cleanup_(buf_deinit) struct buf lower = BUF_NULL, upper = BUF_NULL;
    key_count_bounds(interval, &lower, &upper);
    struct db_iter_options options = {.view = view, .upper = buf_bytes(&upper)};
    struct db_iter *it = db_iter_new(db, &options);
    int64_t n = 0;
    for (db_iter_seek(it, buf_bytes(&lower)); db_iter_valid(it); db_iter_next(it))
        n++;
    int r = db_iter_error(it);
    db_iter_free(it);
    if (r == 0)
        *ret = n;
    return r;
}

static int change_get(struct db_iter *it, const struct interval *interval, int64_t *count)
{
    enum schema_kind kind;
    struct bytes key;
    if (!schema_parse_r_value(db_iter_value(it), &kind, &key)) {
        log_error("corrupt revision record", LOG_BYTES("record", db_iter_key(it)));
        return err_origin(-EBADMSG);
    }
    if (kind != SCHEMA_UPDATE && interval_contains(interval, key))
        *count += kind == SCHEMA_CREATE ? 1 : -1;
    return 0;
}

int key_count_changes(struct db *db, const struct db_view *view, const struct interval *interval,
                      struct key_count_span span, int64_t *count)
{
    check(span.after >= 0 && span.after < INT64_MAX && span.upto >= span.after);
    _cleanup_(buf_deinit) struct buf lower = BUF_NULL, upper = BUF_NULL;
    schema_r(&lower, (struct rev){span.after + 1, 0});
    if (span.upto < INT64_MAX)
        schema_r(&upper, (struct rev){span.upto + 1, 0});
    else
        buf_append_u8(&upper, 'r' + 1);
    struct db_iter_options options = {.view = view, .upper = buf_bytes(&upper)};
    struct db_iter *it = db_iter_new(db, &options);
    int64_t sum = 0;
    int r = 0;
    for (db_iter_seek(it, buf_bytes(&lower)); r == 0 && db_iter_valid(it); db_iter_next(it))
        r = span.most-- > 0 ? change_get(it, interval, &sum) : KEY_COUNT_E_TOO_FAR;
    if (r == 0)
        r = db_iter_error(it);
    db_iter_free(it);
    if (r == 0)
        *count += sum;
    return r;
}

int key_count(struct db *db, const struct db_view *view, const struct interval *interval,
              int64_t revision, bool exact, int64_t *ret)
{
    check(interval->kind == INTERVAL_RANGE || interval->kind == INTERVAL_FROM);
    check(revision >= 0 && revision < INT64_MAX);
    int64_t count = 0;
    int64_t since = 0;
    int r = heads_count(db, view, interval, &count);
    struct key_count_span span = {revision, INT64_MAX, CHANGES_MIN + count * CHANGES_PER_KEY_MAX};
    if (r == 0 && !exact)
        r = key_count_changes(db, view, interval, span, &since);
    if (r == 0 && count < since) {
        log_error("fewer keys than were created", LOG_I64("revision", revision));
        return err_origin(-EBADMSG);
    }
    if (r == 0)
        *ret = count - since;
    return r;
}

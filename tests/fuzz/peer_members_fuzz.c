/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Members from any text: a list, as other members answer it; one, as in a record or a change; the
 * record of a downgrade. Property: what was read is read from what is written again.
 */
#include "base/check.h"
#include "server/member_json.h"
#include "tests/fuzz/fuzz.h"

static void one_member(struct bytes text)
{
    _cleanup_(buf_deinit) struct buf first = BUF_NULL, second = BUF_NULL;
    _cleanup_(member_deinit) struct member m = {0}, again = {0};
    bool is_promotion;

    if (member_json_parse(text, &m, &is_promotion) != 0)
        return;
    member_json(&first, &m);
    check(member_json_parse(buf_bytes(&first), &again, NULL) == 0);
    member_json(&second, &again);
    check(bytes_equal(buf_bytes(&first), buf_bytes(&second)));
}

static void one_downgrade(struct bytes text)
{
    _cleanup_(buf_deinit) struct buf out = BUF_NULL;
    struct downgrade d, again;

    if (member_json_downgrade_parse(text, &d) != 0)
        return;
    member_json_downgrade(&out, &d);
    check(member_json_downgrade_parse(buf_bytes(&out), &again) == 0);
    check(d.enabled == again.enabled && strcmp(d.target, again.target) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    _cleanup_(buf_deinit) struct buf first = BUF_NULL, second = BUF_NULL;
    _cleanup_(member_list_deinit) struct member_list m = {0}, again = {0};

    one_member(bytes_of(data, size));
    one_downgrade(bytes_of(data, size));
    if (member_json_list_parse(bytes_of(data, size), &m) != 0)
        return 0;
    check(m.len <= MEMBER_JSON_LIST_MAX);
    member_json_list(&first, &m);
    check(member_json_list_parse(buf_bytes(&first), &again) == 0);
    check(again.len == m.len);
    member_json_list(&second, &again);
    check(bytes_equal(buf_bytes(&first), buf_bytes(&second)));
    return 0;
}

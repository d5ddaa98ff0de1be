/* SPDX-License-Identifier: Apache-2.0 */
/* The list of members from any text. Property: what was read is read from what is written again. */
#include "base/check.h"
#include "server/member_json.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    _cleanup_(buf_deinit) struct buf first = BUF_NULL, second = BUF_NULL;
    _cleanup_(member_list_deinit) struct member_list m = {0}, again = {0};

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

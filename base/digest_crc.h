/* SPDX-License-Identifier: Apache-2.0 */
/* The portable halves of digest.c, for the tests that compare them with the processor's; use
 * base/digest.h. */
#pragma once

#include "base/bytes.h"

uint32_t crc32c_portable(uint32_t crc, const void *data, size_t len);
uint32_t crc32c_combine_portable(uint32_t crc_a, uint32_t crc_b, uint64_t len_b);

/* SPDX-License-Identifier: Apache-2.0 */
/* What a fuzz target is: one function, under libFuzzer's name, which aborts if a property fails. */
#pragma once

#include "base/bytes.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

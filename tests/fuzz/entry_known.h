/* SPDX-License-Identifier: Apache-2.0 */
/* What the target of entries has found and does not run again; see entry_known.c. */
#pragma once

#include "raft/types.h"

bool entry_is_known(const struct raft_entry *e);

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Text for people: one line per entry, message or configuration. Logs, script transcripts and
 * simulators print the same words, so that they can be compared. Appended to b without a newline,
 * except by describe_ready().
 */
#pragma once

#include "raft/raft.h"

const char *describe_message_type(enum raft_message_type type);
const char *describe_role(enum raft_role role);
void describe_entry(struct buf *b, const struct raft_entry *e);
void describe_message(struct buf *b, const struct raft_message *m);
void describe_conf(struct buf *b, const struct raft_conf_state *c);
void describe_progress(struct buf *b, const struct raft_progress *p);
/* One line per thing to do, each beginning with indent. */
void describe_ready(struct buf *b, const struct raft_ready *rd, const char *indent);

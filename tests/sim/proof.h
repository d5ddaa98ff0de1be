/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The end of a run: nothing goes wrong any more, so everything must come right. Each member that
 * belongs to the cluster takes a write within PROOF_WRITE bounds; then all members come to the same
 * applied index and hold the same state.
 */
#pragma once

void proof_run(void);

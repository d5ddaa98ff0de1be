/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What only the store in memory has, for tests and the simulator.
 */
#pragma once

#include <stdint.h>

struct db;

/* Empties the disk of closed stores. */
void db_mem_forget(void);
/* The process that has it open is gone, with all views and iterators. The store is closed as it was
 * at some moment since its last flush, for it may flush when it likes; random chooses the
 * moment. */
void db_mem_crash(struct db *db, uint64_t random);
/* A closed store at path, as db_mem_crash() would leave db, which stays open. */
void db_mem_copy(const struct db *db, const char *path, uint64_t random);
/* A closed store gets another path, in the place of those whose paths begin so. */
void db_mem_move(const char *from, const char *to);
/* Forgets the closed stores whose paths begin so. */
void db_mem_wipe(const char *prefix);

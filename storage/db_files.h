/* SPDX-License-Identifier: Apache-2.0 */
/* For db_rocks.c alone. */
#pragma once

/* Before a store is opened: ends an exchange that a crash interrupted. 0 or -errno. */
int db_files_recover(const char *path);

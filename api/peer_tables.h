/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A directory of files as the body of a snapshot between two Cairn members:
 *
 *     { u16 length of the name, name, u64 size, bytes, u32 CRC-32C of the bytes }*  u16 0
 *
 * Numbers are big-endian. The directory is flat; a name is of letters, digits, "-", "_" and ".",
 * and not all of dots. Thread: any, one at a time.
 */
#pragma once

#include "base/bytes.h"

enum { PEER_TABLES_FILES_MAX = 1 << 16, PEER_TABLES_NAME_MAX = 255 };

#define PEER_TABLES_TYPE "application/x-cairn-tables" /* Content-Type of such a body */

/* ---- out ---- */

struct peer_table_file {
    char *name;
    uint64_t bytes;
};

struct peer_tables {
    struct peer_table_file *files;
    size_t len;
    uint64_t body_bytes; /* of all, with what is around them */
};

/* The files that are there now. -EINVAL: something else is there, too, or too many. */
int peer_tables_list(const char *directory, struct peer_tables *ret);
void peer_tables_deinit(struct peer_tables *t);
/* What stands before a file's bytes. */
void peer_tables_head(struct buf *out, const struct peer_table_file *file);

/* ---- in ---- */

enum { PEER_TABLES_MORE = 1, PEER_TABLES_WRONG = 2 };

struct peer_tables_reader {
    int dir_fd;
    int file_fd; /* under way; -1: none */
    int state;
    size_t wanted;
    uint8_t piece[PEER_TABLES_NAME_MAX + 1];
    size_t piece_len;
    uint64_t bytes_left;
    uint64_t written; /* of the file under way */
    uint32_t crc;
    size_t n_files;
};

/* Makes the directory, which must not exist. */
int peer_tables_reader_init(struct peer_tables_reader *r, const char *directory);
void peer_tables_reader_deinit(struct peer_tables_reader *r);
/*
 * Takes bytes from *in and writes them where they belong. 0: all is there, and synced;
 * PEER_TABLES_MORE: *in is used up. Negative: the disk.
 */
int peer_tables_read(struct peer_tables_reader *r, struct bytes *in);

/* Removes a directory of files, or a file, that was begun. */
void peer_tables_remove(const char *path);

/*
 * Appends to a file of which *written bytes are there, and sees to it that the disk begins with
 * them soon: a sync at the end of gigabytes would keep the raft log waiting.
 */
int peer_file_append(int fd, struct bytes data, uint64_t *written);
